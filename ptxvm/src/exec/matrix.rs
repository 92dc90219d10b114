//! `ldmatrix`, `stmatrix`, `movmatrix`: 8×8 matrices of 16-bit elements, spread over a warp.
//!
//! Lane `8m + r` gives the address of row `r` of matrix `m`. Lane `l` holds elements `(l/4, 2(l%4))` and the next one;
//! with `.trans` the elements `(2(l%4), l/4)` and the one below.

use super::mem::addresses;
use super::{Ctx, Stopped, Warp, each};
use crate::count;
use crate::decode::inst::Access;
use crate::regs::LANES;

impl Ctx<'_> {
    /// Row addresses of each matrix, checked and counted.
    fn rows<const CHECK: bool>(
        &mut self,
        warp: &mut Warp,
        acc: &Access,
        mask: u32,
        store: bool,
    ) -> Result<[usize; LANES], Stopped> {
        self.whole_warp::<CHECK>(warp, mask)?;
        let mut addr = addresses(&warp.regs, acc);
        let lanes = 8 * acc.count;
        let used = if lanes >= 32 { u32::MAX } else { (1 << lanes) - 1 };
        if CHECK {
            self.aligned(warp, &addr, used, 16)?;
        }
        self.count.matrices += acc.count as u64;
        if self.m.count_memory {
            for m in 0..acc.count as usize {
                self.count.shared_wavefronts += count::phase(&addr[8 * m..8 * m + 8], 0xff, 4);
                self.count.shared_wavefronts_ideal += 1;
            }
        }
        let mut out = [0; LANES];
        for l in each(used) {
            // Out of bounds without its detector: any address inside will do.
            let Some(at) = self.shared_at(warp, l, addr[l], 16)? else {
                addr[l] = 0;
                continue;
            };
            out[l] = at;
            if CHECK && let Some(s) = &mut self.shadow {
                let hit = if store { s.write(warp.id, at, 16, false) } else { s.read(warp.id, at, 16) };
                if let Err(p) = hit {
                    return Err(self.shared_problem(warp, l, p, store));
                }
            }
        }
        Ok(out)
    }

    pub(super) fn load_matrix<const CHECK: bool>(
        &mut self,
        warp: &mut Warp,
        acc: &Access,
        trans: bool,
        mask: u32,
    ) -> Result<(), Stopped> {
        let rows = self.rows::<CHECK>(warp, acc, mask, false)?;
        if self.shared.len() < 16 {
            return Ok(());
        }
        for m in 0..acc.count as usize {
            let mut matrix = [[0u32; 4]; 8];
            for (r, row) in matrix.iter_mut().enumerate() {
                let at = rows[8 * m + r];
                let bytes: &[u8] = &self.shared[at..at + 16];
                for (c, word) in row.iter_mut().enumerate() {
                    *word = u32::from_le_bytes([bytes[4 * c], bytes[4 * c + 1], bytes[4 * c + 2], bytes[4 * c + 3]]);
                }
            }
            *warp.regs.r32_mut(acc.regs[m]) = spread(&matrix, trans);
        }
        Ok(())
    }

    pub(super) fn store_matrix<const CHECK: bool>(
        &mut self,
        warp: &mut Warp,
        acc: &Access,
        trans: bool,
        mask: u32,
    ) -> Result<(), Stopped> {
        let rows = self.rows::<CHECK>(warp, acc, mask, true)?;
        if self.shared.len() < 16 {
            return Ok(());
        }
        for m in 0..acc.count as usize {
            let row = *warp.regs.r32(acc.regs[m]);
            let mut matrix: [[u32; 4]; 8] = std::array::from_fn(|r| std::array::from_fn(|c| row[4 * r + c]));
            if trans {
                let t = spread(&matrix, true);
                matrix = std::array::from_fn(|r| std::array::from_fn(|c| t[4 * r + c]));
            }
            for (r, words) in matrix.iter().enumerate() {
                let at = rows[8 * m + r];
                for (c, w) in words.iter().enumerate() {
                    self.shared[at + 4 * c..at + 4 * c + 4].copy_from_slice(&w.to_le_bytes());
                }
            }
        }
        Ok(())
    }
}

/// The fragment of a matrix given as rows of 32-bit pairs.
pub(super) fn spread(matrix: &[[u32; 4]; 8], trans: bool) -> [u32; LANES] {
    if !trans {
        return std::array::from_fn(|l| matrix[l / 4][l % 4]);
    }
    let element = |r: usize, c: usize| matrix[r][c / 2] >> (16 * (c % 2)) & 0xffff;
    std::array::from_fn(|l| {
        let (r, c) = (2 * (l % 4), l / 4);
        element(r, c) | element(r + 1, c) << 16
    })
}
