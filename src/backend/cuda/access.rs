//! From [`Buffer`]s to addresses: types, lengths and bounds are checked, an error names operation and buffer.

use super::{
    attention::{self, Documents, Step},
    launch::Address,
    linear::Stored,
    rows::RopeInputs,
};
use crate::{
    Error, Result,
    backend::{
        Buffer, DType, KvCache, Rows, Space, Weight, WeightStore,
        ops::{Mask, Rotary},
    },
    quant::nf4,
};

/// Where the arena lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arena {
    pub device: Region,
    /// Pinned memory of the host.
    pub host: Region,
    pub scratch: Buffer,
}

/// Memory in one piece.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Region {
    pub base: Address,
    pub bytes: usize,
}

/// The arena as one operation sees it: buffers to addresses, checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Access {
    pub operation: &'static str,
    pub arena: Arena,
}

impl Access {
    pub fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::failed(format!("{}: {message}", self.operation))
    }

    /// Address of `b`, of whatever type.
    pub fn raw(&self, name: &str, b: Buffer) -> Result<Address> {
        let region = match b.space() {
            Space::Device => self.arena.device,
            Space::Host => self.arena.host,
        };
        if b.range().end > region.bytes {
            return Err(self.error(format!("{name} ends at byte {} of an arena of {}", b.range().end, region.bytes)));
        }
        Ok(region.base + b.offset() as u64)
    }

    /// Address of `b`, which has at least `len` elements of `dtype`.
    pub fn at_least(&self, name: &str, b: Buffer, dtype: DType, len: usize) -> Result<Address> {
        if b.dtype() != dtype {
            return Err(self.error(format!("{name} is {:?}, expected {dtype:?}", b.dtype())));
        }
        if b.len() < len {
            return Err(self.error(format!("{name} has {} elements, expected {len}", b.len())));
        }
        self.raw(name, b)
    }

    /// Address of `b`, which has exactly `len` elements of `dtype`.
    pub fn exact(&self, name: &str, b: Buffer, dtype: DType, len: usize) -> Result<Address> {
        if b.len() != len {
            return Err(self.error(format!("{name} has {} elements, expected {len}", b.len())));
        }
        self.at_least(name, b, dtype, len)
    }

    /// An activation of `len` elements.
    pub fn act(&self, name: &str, b: Buffer, len: usize) -> Result<Address> {
        self.exact(name, b, DType::Bf16, len)
    }

    pub fn f32(&self, name: &str, b: Buffer, len: usize) -> Result<Address> {
        self.exact(name, b, DType::F32, len)
    }

    pub fn u32(&self, name: &str, b: Buffer, len: usize) -> Result<Address> {
        self.exact(name, b, DType::U32, len)
    }

    /// An optional activation, 0 for none.
    pub fn act_or_none(&self, name: &str, b: Option<Buffer>, len: usize) -> Result<Address> {
        b.map_or(Ok(0), |b| self.act(name, b, len))
    }

    /// Rows of `width` elements in `b`.
    pub fn rows_of(&self, name: &str, b: Buffer, width: usize) -> Result<usize> {
        if width == 0 || !b.len().is_multiple_of(width) {
            return Err(self.error(format!("{name} of {} elements is not rows of {width}", b.len())));
        }
        Ok(b.len() / width)
    }

    /// Scratch of `bytes`.
    pub fn scratch(&self, bytes: usize) -> Result<Address> {
        if bytes > self.arena.scratch.bytes() {
            let have = self.arena.scratch.bytes();
            return Err(self.error(format!("needs {bytes} bytes of scratch, there are {have}")));
        }
        self.raw("scratch", self.arena.scratch)
    }

    pub fn documents(&self, rows: &Rows) -> Result<Documents> {
        if rows.docs > attention::MAX_DOCUMENTS {
            let most = attention::MAX_DOCUMENTS;
            return Err(self.error(format!("{} documents in a micro-batch, at most {most} on CUDA", rows.docs)));
        }
        let cu_seqlens = self.at_least("cu_seqlens", rows.cu_seqlens, DType::U32, rows.docs + 1)?;
        Ok(Documents { rows: rows.count, count: rows.docs, max_len: rows.max_len, cu_seqlens })
    }

    /// Sample and position of each row; asked for with dropout only, 0 otherwise.
    pub fn places(&self, rows: usize, mask: Option<Mask>) -> Result<(Address, Address)> {
        let Some(mask) = mask else { return Ok((0, 0)) };
        let at = |name, b| self.at_least(name, b, DType::U32, rows);
        Ok((at("samples", mask.samples)?, at("positions", mask.positions)?))
    }

    pub fn rope(&self, rows: &Rows, p: &Rotary) -> Result<RopeInputs> {
        Ok(RopeInputs {
            rows: rows.count,
            heads: p.heads,
            positions: self.u32("positions", rows.positions, rows.count)?,
            q_norm: self.f32("q_norm", p.q_norm, p.heads.dim)?,
            k_norm: self.f32("k_norm", p.k_norm, p.heads.dim)?,
            eps: p.eps,
            rope: self.at_least("rope", p.table, DType::F32, p.heads.dim)?,
        })
    }

    pub fn cache(&self, c: &KvCache) -> Result<attention::Cache> {
        let (k, v) = (self.act("cached k", c.k, c.k.len())?, self.act("cached v", c.v, c.k.len())?);
        Ok(attention::Cache { k, v, capacity: c.capacity })
    }

    pub fn step(&self, rows: &Rows, slots: Buffer) -> Result<Step> {
        let positions = self.u32("positions", rows.positions, rows.count)?;
        Ok(Step { rows: rows.count, positions, slots: self.u32("slots", slots, rows.count)? })
    }

    /// (W or packed W, absmax or 0, how it is stored).
    pub fn weight(&self, w: &Weight) -> Result<(Address, Address, Stored)> {
        let len = w.n * w.k;
        match w.store {
            WeightStore::Dense(b) => Ok((self.exact("W", b, DType::Bf16, len)?, 0, Stored::Dense)),
            WeightStore::Nf4 { packed, absmax, compute } => {
                if compute != DType::Bf16 {
                    return Err(self.error(format!("weights are rounded to bf16 on CUDA, not to {compute:?}")));
                }
                let packed = self.exact("packed W", packed, DType::U8, len / 2)?;
                Ok((packed, self.f32("absmax of W", absmax, len / nf4::BLOCK)?, Stored::Packed))
            }
        }
    }
}
