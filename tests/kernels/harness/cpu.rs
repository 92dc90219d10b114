//! The reference: the CPU backend.

use super::Device;
use irori::backend::{Backend, Buffer, DType, Kind, Layout, Op, cpu::CpuBackend};
use ptxvm::Counters;

/// The CPU backend, whose arena grows with what is declared: before an operation that needs more, everything moves.
pub struct Cpu {
    backend: CpuBackend,
    layout: Layout,
    /// Each buffer, and its content where the arena does not hold it yet.
    buffers: Vec<(Buffer, Option<Vec<u8>>)>,
    scratch: usize,
}

impl Cpu {
    pub fn new() -> Self {
        let backend = CpuBackend::new(Some(2)).unwrap();
        Self { backend, layout: Layout::new(), buffers: Vec::new(), scratch: 0 }
    }

    /// Takes an arena for all buffers and this much scratch.
    fn settle(&mut self, scratch: usize) {
        if scratch <= self.scratch && self.buffers.iter().all(|(_, pending)| pending.is_none()) {
            return;
        }
        for (b, content) in &mut self.buffers {
            content.get_or_insert_with(|| self.backend.read(*b).unwrap());
        }
        let mut layout = self.layout.clone();
        let place = layout.take(Kind::Scratch, DType::U8, scratch);
        self.backend.allocate(layout.bytes(), layout.host_bytes(), place).unwrap();
        for (b, content) in &mut self.buffers {
            self.backend.write(*b, &content.take().expect("filled above")).unwrap();
        }
        self.scratch = scratch;
    }
}

impl Device for Cpu {
    const ACT: DType = DType::F32;

    fn upload(&mut self, dtype: DType, bytes: &[u8]) -> Buffer {
        let b = self.layout.take(Kind::Workspace, dtype, bytes.len() / dtype.size());
        self.buffers.push((b, Some(bytes.to_vec())));
        b
    }

    fn out(&mut self, dtype: DType, len: usize) -> Buffer {
        self.upload(dtype, &vec![0; len * dtype.size()])
    }

    fn run<'a>(&mut self, op: impl Into<Op<'a>>) -> Vec<Counters> {
        let op = op.into();
        self.settle(self.backend.properties().scratch(&op));
        self.backend.run(&op).unwrap_or_else(|e| panic!("{e}"));
        Vec::new()
    }

    fn bytes_of(&mut self, b: Buffer) -> Vec<u8> {
        self.settle(self.scratch);
        self.backend.read(b).unwrap()
    }
}
