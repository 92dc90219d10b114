//! The cpu backend with its activations rounded to bf16 wherever the CUDA backend stores them so: what is left between
//! the two is the order of sums, and the few places where a kernel rounds inside.

use crate::harness::round;
use irori::{
    Result,
    backend::{
        Backend, Buffer, DType, Op, Properties,
        cpu::CpuBackend,
        ops::{Access, Operands},
    },
};

/// The backend. Adapters are rounded when they are set, so their working copy is what CUDA's is.
pub struct Rounded(pub CpuBackend);

impl Rounded {
    fn round(&mut self, b: Buffer) -> Result<()> {
        let mut values: Vec<f32> = bytemuck::pod_collect_to_vec(&self.0.read(b)?);
        values.iter_mut().for_each(|x| *x = round(*x));
        self.0.write(b, bytemuck::cast_slice(&values))
    }
}

impl Backend for Rounded {
    fn properties(&self) -> &dyn Properties {
        self.0.properties()
    }

    fn describe(&self) -> String {
        self.0.describe()
    }

    fn allocate(&mut self, bytes: usize, host_bytes: usize, scratch: Buffer) -> Result<()> {
        self.0.allocate(bytes, host_bytes, scratch)
    }

    fn write(&mut self, dst: Buffer, data: &[u8]) -> Result<()> {
        self.0.write(dst, data)
    }

    fn read(&mut self, src: Buffer) -> Result<Vec<u8>> {
        self.0.read(src)
    }

    /// Runs it, and rounds what a device with bf16 activations would write as one.
    fn run(&mut self, op: &Op) -> Result<()> {
        self.0.run(op)?;
        if let Op::Convert(op) = op {
            return self.round(op.dst);
        }
        let mut operands = Operands::new(DType::Bf16);
        op.as_operation().operands(&mut operands).expect("it ran");
        let written = operands.list().iter().filter(|o| o.access != Access::Read && o.types == [DType::Bf16]);
        written.map(|o| o.buffer).try_for_each(|b| self.round(b))
    }
}
