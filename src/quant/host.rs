//! Floating-point elements as they lie in a file: little-endian, of three types, at any address.

use half::{bf16, f16};

/// Elements of a tensor in host memory, not necessarily aligned. A trailing part of an element is ignored.
#[derive(Debug, Clone, Copy)]
pub enum Floats<'a> {
    /// IEEE 754 binary32.
    F32(&'a [u8]),
    /// bfloat16.
    Bf16(&'a [u8]),
    /// IEEE 754 binary16.
    F16(&'a [u8]),
}

impl Floats<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(b) => b.len() / 4,
            Self::Bf16(b) | Self::F16(b) => b.len() / 2,
        }
    }

    /// True if there is not one whole element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements `start..start + out.len()` as f32; every value of the three types is one.
    ///
    /// # Panics
    /// If the range is not inside the tensor.
    pub fn read(&self, start: usize, out: &mut [f32]) {
        let end = start + out.len();
        match self {
            Self::F32(b) => {
                for (o, e) in out.iter_mut().zip(b[4 * start..4 * end].chunks_exact(4)) {
                    *o = f32::from_le_bytes([e[0], e[1], e[2], e[3]]);
                }
            }
            Self::Bf16(b) => {
                for (o, e) in out.iter_mut().zip(b[2 * start..2 * end].chunks_exact(2)) {
                    *o = bf16::from_le_bytes([e[0], e[1]]).to_f32();
                }
            }
            Self::F16(b) => {
                for (o, e) in out.iter_mut().zip(b[2 * start..2 * end].chunks_exact(2)) {
                    *o = f16::from_le_bytes([e[0], e[1]]).to_f32();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_type_at_odd_addresses() {
        let values = [1.5f32, -0.25, 0.0, 3.0];
        let mut f32s = vec![0u8];
        let mut bf16s = vec![0u8];
        let mut f16s = vec![0u8];
        for v in values {
            f32s.extend(v.to_le_bytes());
            bf16s.extend(bf16::from_f32(v).to_le_bytes());
            f16s.extend(f16::from_f32(v).to_le_bytes());
        }
        for t in [Floats::F32(&f32s[1..]), Floats::Bf16(&bf16s[1..]), Floats::F16(&f16s[1..])] {
            assert_eq!(t.len(), 4);
            let mut out = [0.0; 3];
            t.read(1, &mut out);
            assert_eq!(out, values[1..]);
        }
    }
}
