//! Generation: keys and values kept, and attention of single rows over them.

use super::{Access, Heads, Operands, Operation, Rows};
use crate::backend::Buffer;

/// Keys and values of generated sequences for one layer.
#[derive(Debug, Clone, Copy)]
pub struct KvCache {
    /// Keys after head norm and RoPE, act [slots, capacity, Hk·D].
    pub k: Buffer,
    /// Values, same shape.
    pub v: Buffer,
    /// Positions per slot.
    pub capacity: usize,
}

impl KvCache {
    fn operands(&self, to: &mut Operands, access: Access) {
        to.add(access, "cached keys", self.k, to.act(), self.k.len());
        to.add(access, "cached values", self.v, to.act(), self.k.len());
    }
}

/// Stores the keys (from `qk`) and values (from `qkv`) of row t in slot `slots[t]` at `rows.positions[t]`.
#[derive(Debug, Clone, Copy)]
pub struct KvStore {
    /// act [T, (Hq+Hk)·D].
    pub qk: Buffer,
    /// act [T, (Hq+2Hk)·D].
    pub qkv: Buffer,
    /// Whose `positions` say where.
    pub rows: Rows,
    /// Slot of each row, `U32 [T]`.
    pub slots: Buffer,
    /// Heads.
    pub heads: Heads,
    /// What is filled.
    pub cache: KvCache,
}

impl Operation for KvStore {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let (rows, heads) = (self.rows.count, self.heads);
        heads.check()?;
        to.read("qk", self.qk, rows * heads.qk_width());
        to.read("qkv", self.qkv, rows * heads.qkv_width());
        to.read_indices("positions", self.rows.positions, rows);
        to.read_indices("slots", self.slots, rows);
        self.cache.operands(to, Access::Update);
        Ok(())
    }
}

/// Attention of one new row per sequence over the cache, which holds the row's own key and value already: row t looks at
/// positions 0..=`rows.positions[t]` of slot `slots[t]`.
#[derive(Debug, Clone, Copy)]
pub struct AttentionCached {
    /// act [T, (Hq+Hk)·D]; only q is read.
    pub qk: Buffer,
    /// Whose `positions` say how far.
    pub rows: Rows,
    /// Slot of each row, `U32 [T]`.
    pub slots: Buffer,
    /// Heads.
    pub heads: Heads,
    /// Keys and values.
    pub cache: KvCache,
    /// act [T, Hq·D].
    pub o: Buffer,
}

impl Operation for AttentionCached {
    fn operands(&self, to: &mut Operands) -> Result<(), String> {
        let (rows, heads) = (self.rows.count, self.heads);
        heads.check()?;
        to.read("qk", self.qk, rows * heads.qk_width());
        to.read_indices("positions", self.rows.positions, rows);
        to.read_indices("slots", self.slots, rows);
        self.cache.operands(to, Access::Read);
        to.write("o", self.o, rows * heads.q_width());
        Ok(())
    }

    /// Over caches that are full.
    fn flops(&self) -> f64 {
        4.0 * self.rows.count as f64 * self.cache.capacity as f64 * self.heads.q_width() as f64
    }
}
