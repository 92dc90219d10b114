//! A warp's registers: rows of 32 lanes.
//!
//! A 16- or 32-bit register is one row of 32 `u32`, a 64-bit register two rows read as 32 `u64`; predicates are bit
//! masks, bit = lane. Immediates and special registers are rows too, so that an instruction's operand is one index
//! and every lane loop is a plain loop over arrays that the compiler can vectorise.

/// Index of a row.
pub(crate) type Slot = u32;

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;

#[derive(Clone, Copy)]
#[repr(C, align(128))]
pub(crate) struct Row(pub [u32; LANES]);

/// One warp's register file.
pub(crate) struct Regs {
    pub rows: Vec<Row>,
    /// Predicates; index 0 is the constant "true".
    pub preds: Vec<u32>,
    /// The carry flag of `add.cc` and its kin.
    pub carry: u32,
}

impl Regs {
    pub fn new(rows: usize, preds: usize) -> Regs {
        let mut preds = vec![0; preds.max(1)];
        preds[0] = u32::MAX;
        // One row to spare, so that a 64-bit view of the last row stays inside.
        Regs { rows: vec![Row([0; LANES]); rows + 1], preds, carry: 0 }
    }

    #[inline(always)]
    pub fn r32(&self, s: Slot) -> &[u32; LANES] {
        &self.rows[s as usize].0
    }

    #[inline(always)]
    pub fn r32_mut(&mut self, s: Slot) -> &mut [u32; LANES] {
        &mut self.rows[s as usize].0
    }

    #[inline(always)]
    pub fn r64(&self, s: Slot) -> &[u64; LANES] {
        let pair: &[Row] = &self.rows[s as usize..s as usize + 2];
        // SAFETY: two adjacent `Row`s (repr(C), 128 bytes each, no padding) are 256 initialised bytes, aligned to
        // 128; any bit pattern is a u64; the borrow of `pair` lives as long as the result's.
        unsafe { &*pair.as_ptr().cast::<[u64; LANES]>() }
    }

    #[inline(always)]
    pub fn r64_mut(&mut self, s: Slot) -> &mut [u64; LANES] {
        let pair: &mut [Row] = &mut self.rows[s as usize..s as usize + 2];
        // SAFETY: as in `r64`, and `pair` is borrowed mutably for the result's lifetime.
        unsafe { &mut *pair.as_mut_ptr().cast::<[u64; LANES]>() }
    }

    /// Writes the lanes of `mask` in a predicate; predicate 0 as destination means "nobody wants it".
    #[inline(always)]
    pub fn set_pred(&mut self, p: u16, bits: u32, mask: u32) {
        if p == 0 {
            return;
        }
        let old = &mut self.preds[p as usize];
        *old = (*old & !mask) | (bits & mask);
    }
}

/// A lane type that registers are read and written as.
pub(crate) trait Lane: Copy + Default {
    fn load(r: &Regs, s: Slot) -> [Self; LANES];
    fn store(r: &mut Regs, s: Slot, v: &[Self; LANES], mask: u32);
}

/// Types read and written through one pair of accessors: the type, how it is made from a register's bits, and back.
macro_rules! lanes {
    ($row:ident, $row_mut:ident: $($t:ty, $from:expr, $to:expr;)*) => {$(
        impl Lane for $t {
            #[inline(always)]
            fn load(r: &Regs, s: Slot) -> [Self; LANES] {
                let row = r.$row(s);
                let mut out = [<$t>::default(); LANES];
                for l in 0..LANES {
                    out[l] = $from(row[l]);
                }
                out
            }
            #[inline(always)]
            fn store(r: &mut Regs, s: Slot, v: &[Self; LANES], mask: u32) {
                let row = r.$row_mut(s);
                if mask == u32::MAX {
                    for l in 0..LANES {
                        row[l] = $to(v[l]);
                    }
                } else {
                    for l in 0..LANES {
                        row[l] = if mask >> l & 1 == 1 { $to(v[l]) } else { row[l] };
                    }
                }
            }
        }
    )*};
}

lanes! { r32, r32_mut:
    u32, |x: u32| x, |x: u32| x;
    i32, |x: u32| x as i32, |x: i32| x as u32;
    f32, f32::from_bits, f32::to_bits;
    u16, |x: u32| x as u16, |x: u16| x as u32;
    i16, |x: u32| x as i16, |x: i16| x as u16 as u32;
}

lanes! { r64, r64_mut:
    u64, |x: u64| x, |x: u64| x;
    i64, |x: u64| x as i64, |x: i64| x as u64;
    f64, f64::from_bits, f64::to_bits;
}
