//! Every operation against a plain f64 reference at ragged shapes; gradients against central differences of the reference.

mod attention;
mod linear;
mod loss;
mod memory;
mod optim;
mod rows;

use super::*;
use crate::{
    backend::{HostTensor, Kind, Layout, ops::*},
    rng::{Dropout, Rng},
};

/// Dropout of the rows of a micro-batch.
pub fn mask(dropout: Option<Dropout>, rows: &Rows) -> Option<Mask> {
    dropout.map(|dropout| Mask { dropout, samples: rows.samples, positions: rows.positions })
}

/// A backend under test: buffers are declared with their content, then the arena is taken.
pub struct Rig {
    layout: Layout,
    pending: Vec<(Buffer, Vec<u8>)>,
    pub be: CpuBackend,
    rng: Rng,
}

impl Rig {
    pub fn new(threads: usize) -> Self {
        let be = CpuBackend::new(Some(threads)).unwrap();
        Self { layout: Layout::new(), pending: Vec::new(), be, rng: Rng::new(1, 2) }
    }

    pub fn random(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.rng.normal()).collect()
    }

    pub fn f32(&mut self, x: &[f32]) -> Buffer {
        self.raw(DType::F32, x.len(), bytemuck::cast_slice(x))
    }

    pub fn u32(&mut self, x: &[u32]) -> Buffer {
        self.raw(DType::U32, x.len(), bytemuck::cast_slice(x))
    }

    pub fn raw(&mut self, dtype: DType, len: usize, bytes: &[u8]) -> Buffer {
        let b = self.layout.take(Kind::Workspace, dtype, len);
        self.pending.push((b, bytes.to_vec()));
        b
    }

    /// A buffer of NaN (or of all bits set): what is not written shows.
    pub fn out(&mut self, dtype: DType, len: usize) -> Buffer {
        let fill = vec![0xff; len * dtype.size()];
        self.raw(dtype, len, &fill)
    }

    pub fn start(&mut self, scratch_bytes: usize) {
        let scratch = self.layout.take(Kind::Scratch, DType::U8, scratch_bytes);
        self.be.allocate(self.layout.bytes(), self.layout.host_bytes(), scratch).unwrap();
        for (b, bytes) in self.pending.drain(..) {
            self.be.write(b, &bytes).unwrap();
        }
    }

    pub fn get(&mut self, b: Buffer) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(&self.be.read(b).unwrap())
    }

    /// Documents of the given lengths; sample numbers 100, 101, …
    pub fn rows(&mut self, lengths: &[usize]) -> Rows {
        let mut bounds = vec![0u32];
        let (mut positions, mut samples) = (Vec::new(), Vec::new());
        for (i, &n) in lengths.iter().enumerate() {
            positions.extend(0..n as u32);
            samples.extend(std::iter::repeat_n(100 + i as u32, n));
            bounds.push(positions.len() as u32);
        }
        let count = positions.len();
        Rows {
            count,
            docs: lengths.len(),
            max_len: lengths.iter().copied().max().unwrap_or(0),
            tokens: self.u32(&vec![0; count]),
            positions: self.u32(&positions),
            samples: self.u32(&samples),
            cu_seqlens: self.u32(&bounds),
        }
    }
}

pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// Largest |got − want| is at most `relative` of the largest |want|.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], want: &[f64], relative: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let size = want.iter().fold(1e-30f64, |m, w| m.max(w.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*g) - w).abs() / size;
        assert!(error <= relative, "{what}[{i}] = {g}, expected {w}: error {error:.1e} of the largest");
    }
}

/// Gradient of `f` at `x` by central differences in f64: exact to about 1e-9 for functions of size 1.
pub fn numeric_gradient(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut x = x.to_vec();
    let h = 1e-5;
    (0..x.len())
        .map(|i| {
            let old = x[i];
            x[i] = old + h;
            let up = f(&x);
            x[i] = old - h;
            let down = f(&x);
            x[i] = old;
            (up - down) / (2.0 * h)
        })
        .collect()
}

pub fn weighted(y: &[f64], dy: &[f64]) -> f64 {
    y.iter().zip(dy).map(|(y, d)| y * d).sum()
}
