//! What an operation touches, as a list.

use crate::backend::{Buffer, DType};

/// What an operation does with a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Writes all of it; what it held does not matter.
    Write,
    /// Reads it and writes it, or writes only part of it.
    Update,
}

/// A buffer of an operation.
#[derive(Debug, Clone, Copy)]
pub struct Operand {
    /// What the operation's documentation calls it.
    pub name: &'static str,
    /// The buffer.
    pub buffer: Buffer,
    /// What is done with it.
    pub access: Access,
    /// Its element type; any if empty.
    pub types: &'static [DType],
    /// Elements that are needed; `None` for whatever it has.
    pub len: Option<usize>,
    /// Whether it may have more.
    pub longer: bool,
    /// Whether it may lie in host memory.
    pub host: bool,
}

/// The operands of one operation.
#[derive(Debug)]
pub struct Operands {
    act: DType,
    list: Vec<Operand>,
}

/// One type as a list, for [`Operand::types`].
pub(super) const fn one(dtype: DType) -> &'static [DType] {
    match dtype {
        DType::F32 => &[DType::F32],
        DType::Bf16 => &[DType::Bf16],
        DType::F16 => &[DType::F16],
        DType::U8 => &[DType::U8],
        DType::U32 => &[DType::U32],
        DType::I64 => &[DType::I64],
    }
}

/// What a dense tensor is held in.
pub(super) const DENSE: &[DType] = &[DType::F32, DType::Bf16];

impl Operands {
    /// None yet, on a device whose activations are of type `act`.
    pub fn new(act: DType) -> Self {
        Self { act, list: Vec::with_capacity(12) }
    }

    /// All of them.
    pub fn list(&self) -> &[Operand] {
        &self.list
    }

    /// Elements of an activation.
    pub(super) fn act(&self) -> &'static [DType] {
        one(self.act)
    }

    /// Adds a buffer of exactly `len` elements.
    pub(super) fn add(
        &mut self,
        access: Access,
        name: &'static str,
        buffer: Buffer,
        types: &'static [DType],
        len: usize,
    ) {
        self.push(Operand { name, buffer, access, types, len: Some(len), longer: false, host: false });
    }

    pub(super) fn push(&mut self, operand: Operand) {
        self.list.push(operand);
    }

    /// An activation that is read.
    pub(super) fn read(&mut self, name: &'static str, buffer: Buffer, len: usize) {
        self.add(Access::Read, name, buffer, self.act(), len);
    }

    /// An activation that is written.
    pub(super) fn write(&mut self, name: &'static str, buffer: Buffer, len: usize) {
        self.add(Access::Write, name, buffer, self.act(), len);
    }

    /// An activation that is changed.
    pub(super) fn update(&mut self, name: &'static str, buffer: Buffer, len: usize) {
        self.add(Access::Update, name, buffer, self.act(), len);
    }

    /// f32 numbers that are read.
    pub(super) fn read_f32(&mut self, name: &'static str, buffer: Buffer, len: usize) {
        self.add(Access::Read, name, buffer, one(DType::F32), len);
    }

    /// The first `len` of a buffer of indices.
    pub(super) fn read_indices(&mut self, name: &'static str, buffer: Buffer, len: usize) {
        let types = one(DType::U32);
        self.push(Operand { name, buffer, access: Access::Read, types, len: Some(len), longer: true, host: false });
    }

    /// A buffer of any type and length, in either space.
    pub(super) fn raw(&mut self, access: Access, name: &'static str, buffer: Buffer) {
        self.push(Operand { name, buffer, access, types: &[], len: None, longer: true, host: true });
    }
}
