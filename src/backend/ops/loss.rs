//! Softmax over the vocabulary.

use super::{Access, Operands, Operation, operands::one, rows_of};
use crate::backend::{Buffer, DType};

/// Natural-log softmax of each row at `c` of its columns: row i reads `ids[i·c .. i·c + c]`.
/// PyTorch: `F.log_softmax(logits, -1).gather(-1, ids)`.
#[derive(Debug, Clone, Copy)]
pub struct LogSoftmaxAt {
    /// act [R, V].
    pub logits: Buffer,
    /// V.
    pub vocab: usize,
    /// U32 [R, c].
    pub ids: Buffer,
    /// c.
    pub c: usize,
    /// F32 [R, c].
    pub out: Buffer,
}

impl Operation for LogSoftmaxAt {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let rows = rows_of("logits", self.logits.len(), self.vocab)?;
        to.read("logits", self.logits, rows * self.vocab);
        to.add(Access::Read, "ids", self.ids, one(DType::U32), rows * self.c);
        to.add(Access::Write, "out", self.out, one(DType::F32), rows * self.c);
        Ok(())
    }
}

/// Column of the largest logit of each row, the lowest of equals. PyTorch: `logits.argmax(-1)`.
#[derive(Debug, Clone, Copy)]
pub struct Argmax {
    /// act [R, V].
    pub logits: Buffer,
    /// V.
    pub vocab: usize,
    /// `U32 [R]`.
    pub out: Buffer,
}

impl Operation for Argmax {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let rows = rows_of("logits", self.logits.len(), self.vocab)?;
        to.read("logits", self.logits, rows * self.vocab);
        to.add(Access::Write, "out", self.out, one(DType::U32), rows);
        Ok(())
    }
}

/// Cross-entropy in place: adds Σ −log softmax(logits)\[target\] to `loss`, then overwrites the logits with
/// `(softmax − onehot)·grad_scale`. PyTorch: `F.cross_entropy(reduction="sum")` and its backward.
#[derive(Debug, Clone, Copy)]
pub struct CrossEntropy {
    /// act [R, V]: logits in, their gradient out.
    pub logits: Buffer,
    /// V.
    pub vocab: usize,
    /// `U32 [R]`.
    pub targets: Buffer,
    /// What the gradient is multiplied by.
    pub grad_scale: f32,
    /// `F32 [1]`, grows by the sum.
    pub loss: Buffer,
}

impl CrossEntropy {
    /// R.
    pub fn rows(&self) -> usize {
        self.logits.len().checked_div(self.vocab).unwrap_or(0)
    }
}

impl Operation for CrossEntropy {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let rows = rows_of("logits", self.logits.len(), self.vocab)?;
        to.add(Access::Read, "targets", self.targets, one(DType::U32), rows);
        to.update("logits", self.logits, rows * self.vocab);
        to.add(Access::Update, "loss", self.loss, one(DType::F32), 1);
        Ok(())
    }
}
