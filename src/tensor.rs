//! Element types, and tensors in host memory: row-major, little-endian (as is every machine that irori runs on), at any
//! address. What an element type is called elsewhere, and every conversion between them, is here.

use crate::{Error, Result, simd::multiversion};
use half::{bf16, f16};
use rayon::prelude::*;
use std::borrow::Cow;

/// Element type of a buffer on a device, or of a tensor in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE 754 binary16; occurs in files only.
    F16,
    /// Bytes: packed NF4.
    U8,
    /// Indices.
    U32,
    /// Counters; occurs in files only.
    I64,
}

impl DType {
    /// Size of one element in bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::I64 => 8,
            Self::F32 | Self::U32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::U8 => 1,
        }
    }

    /// The name in a safetensors header.
    pub const fn safetensors(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::U8 => "U8",
            Self::U32 => "U32",
            Self::I64 => "I64",
        }
    }

    /// The type of a tensor in a safetensors file, if it is one of these.
    pub const fn from_safetensors(dtype: safetensors::Dtype) -> Option<Self> {
        match dtype {
            safetensors::Dtype::F32 => Some(Self::F32),
            safetensors::Dtype::BF16 => Some(Self::Bf16),
            safetensors::Dtype::F16 => Some(Self::F16),
            safetensors::Dtype::U8 => Some(Self::U8),
            safetensors::Dtype::U32 => Some(Self::U32),
            safetensors::Dtype::I64 => Some(Self::I64),
            _ => None,
        }
    }

    /// The name in config.json and in bitsandbytes' records: that of PyTorch.
    pub const fn torch(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::U8 => "uint8",
            Self::U32 => "uint32",
            Self::I64 => "int64",
        }
    }

    /// `values` as elements of this type: rounded to nearest even, or cut to an integer.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            Self::U8 => values.iter().map(|&v| v as u8).collect(),
            Self::U32 => values.iter().flat_map(|&v| (v as u32).to_le_bytes()).collect(),
            Self::I64 => values.iter().flat_map(|&v| (v as i64).to_le_bytes()).collect(),
        }
    }
}

/// The elements of a tensor (in a mapped file, or made on the fly) on their way into a buffer, which has no shape.
#[derive(Debug, Clone, Copy)]
pub struct HostTensor<'a> {
    /// F32, Bf16 or F16.
    pub dtype: DType,
    /// Elements; not necessarily aligned.
    pub bytes: &'a [u8],
}

impl<'a> HostTensor<'a> {
    /// The elements by type.
    ///
    /// # Errors
    /// If it is not a floating-point type.
    pub fn floats(self) -> Result<Floats<'a>> {
        match self.dtype {
            DType::F32 => Ok(Floats::F32(self.bytes)),
            DType::Bf16 => Ok(Floats::Bf16(self.bytes)),
            DType::F16 => Ok(Floats::F16(self.bytes)),
            other => Err(Error::internal(format!("a tensor of {other:?}, expected F32, Bf16 or F16"))),
        }
    }
}

/// A tensor in host memory, borrowed from a mapped file or owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor<'a> {
    /// Element type.
    pub dtype: DType,
    /// Shape, outermost first.
    pub shape: Vec<usize>,
    /// Elements; not necessarily aligned.
    pub bytes: Cow<'a, [u8]>,
}

impl<'a> Tensor<'a> {
    /// A tensor of elements that lie somewhere, or are made for it.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { dtype, shape: shape.into(), bytes: bytes.into() }
    }

    /// A vector of F32 that lies somewhere.
    pub fn vector(values: &'a [f32]) -> Self {
        Self::new(DType::F32, [values.len()], bytemuck::cast_slice(values))
    }

    /// The elements without their shape.
    pub fn host(&self) -> HostTensor<'_> {
        HostTensor { dtype: self.dtype, bytes: &self.bytes }
    }

    /// The elements by type.
    ///
    /// # Errors
    /// If it is not a floating-point type.
    pub fn floats(&self) -> Result<Floats<'_>> {
        self.host().floats()
    }

    /// The elements as f32.
    ///
    /// # Errors
    /// If the tensor is not of a floating-point type.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let floats = self.floats()?;
        let mut out = vec![0.0; floats.len()];
        floats.read(0, &mut out);
        Ok(out)
    }
}

/// Floating-point elements, not necessarily aligned. A trailing part of an element is ignored.
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

    /// The first element that is NaN or infinite, and its value. Large tensors are looked through in parallel, because every
    /// weight that is loaded is.
    pub fn first_non_finite(&self) -> Option<(usize, f32)> {
        // A multiple of every element's size, small enough to stay in a cache.
        const PIECE: usize = 1 << 18;
        type Has = fn(&[u8]) -> bool;
        let (bytes, has): (&[u8], Has) = match self {
            Self::F32(b) => (b, f32_non_finite),
            Self::Bf16(b) => (b, bf16_non_finite),
            Self::F16(b) => (b, f16_non_finite),
        };
        let piece =
            if bytes.len() <= PIECE { has(bytes).then_some(0) } else { bytes.par_chunks(PIECE).position_first(has) }?;
        let first = piece * PIECE / if matches!(self, Self::F32(_)) { 4 } else { 2 };
        let mut value = [0.0];
        (first..self.len()).find_map(|i| {
            self.read(i, &mut value);
            (!value[0].is_finite()).then_some((i, value[0]))
        })
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

// A number is NaN or infinite where every bit of its exponent is set. Nothing branches, so that these loops vectorise.

multiversion! {
    fn f32_non_finite(bytes: &[u8]) -> bool {
        const EXPONENT: u32 = 0x7f80_0000;
        let hit = |b: &[u8; 4]| u32::from(u32::from_le_bytes(*b) & EXPONENT == EXPONENT);
        bytes.as_chunks::<4>().0.iter().fold(0, |any, b| any | hit(b)) != 0
    }
}

multiversion! {
    fn bf16_non_finite(bytes: &[u8]) -> bool {
        const EXPONENT: u16 = 0x7f80;
        let hit = |b: &[u8; 2]| u16::from(u16::from_le_bytes(*b) & EXPONENT == EXPONENT);
        bytes.as_chunks::<2>().0.iter().fold(0, |any, b| any | hit(b)) != 0
    }
}

multiversion! {
    fn f16_non_finite(bytes: &[u8]) -> bool {
        const EXPONENT: u16 = 0x7c00;
        let hit = |b: &[u8; 2]| u16::from(u16::from_le_bytes(*b) & EXPONENT == EXPONENT);
        bytes.as_chunks::<2>().0.iter().fold(0, |any, b| any | hit(b)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [DType; 6] = [DType::F32, DType::Bf16, DType::F16, DType::U8, DType::U32, DType::I64];

    #[test]
    fn reads_what_it_encodes_at_odd_addresses() {
        let values = [1.5f32, -0.25, 0.0, 3.0];
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            let bytes = [vec![0], dtype.encode(&values)].concat();
            let floats = HostTensor { dtype, bytes: &bytes[1..] }.floats().unwrap();
            assert_eq!(floats.len(), 4);
            let mut out = [0.0; 3];
            floats.read(1, &mut out);
            assert_eq!(out, values[1..], "{dtype:?}");
            assert_eq!(Tensor::new(dtype, [2, 2], &bytes[1..]).to_f32().unwrap(), values);
        }
    }

    #[test]
    fn what_is_no_float_is_not_read_as_one() {
        for dtype in [DType::U8, DType::U32, DType::I64] {
            let error = Tensor::new(dtype, [1], vec![0; dtype.size()]).to_f32().unwrap_err().to_string();
            assert!(error.contains(&format!("{dtype:?}")), "{error}");
        }
    }

    #[test]
    fn the_first_element_that_is_no_number_is_found_wherever_it_is() {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            // The largest and the smallest numbers of each type are numbers.
            let largest = if dtype == DType::F16 { 65_504.0 } else { 3.38e38 };
            for len in [1, 7, 33, 300_001] {
                let values: Vec<f32> = (0..len).map(|i| [0.0, -largest, largest, 6e-8][i % 4]).collect();
                let bytes = dtype.encode(&values);
                let first = |bytes: &[u8]| HostTensor { dtype, bytes }.floats().unwrap().first_non_finite();
                assert_eq!(first(&bytes), None, "{dtype:?} {len}");
                for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    for at in [0, len / 2, len - 1] {
                        // At an odd address, as in a file.
                        let mut spoilt = [vec![0], bytes.clone()].concat();
                        let size = dtype.size();
                        spoilt[1 + at * size..][..size].copy_from_slice(&dtype.encode(&[bad]));
                        let (found, value) = first(&spoilt[1..]).expect("found");
                        assert!(
                            found == at && (value == bad || value.is_nan() && bad.is_nan()),
                            "{dtype:?} {len} {at}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn sizes_and_names_are_those_of_the_format() {
        for dtype in ALL {
            assert_eq!(dtype.encode(&[1.0, 2.0]).len(), 2 * dtype.size());
            let name: safetensors::Dtype = serde_json::from_value(dtype.safetensors().into()).unwrap();
            assert_eq!((DType::from_safetensors(name), name.bitsize()), (Some(dtype), 8 * dtype.size()));
        }
        assert_eq!(DType::from_safetensors(safetensors::Dtype::F64), None);
    }
}
