//! What a device's queue takes, as data: launches, zeros, copies, and bytes from the host.

use super::launch::{Address, Launch};
use crate::{
    backend::{DType, HostTensor},
    rng::NearNormal,
    tensor::Floats,
};

/// One entry of the queue.
#[derive(Debug, Clone)]
pub enum Command<'a> {
    /// A kernel.
    Launch(Launch),
    /// Bytes become zero.
    Zero {
        /// The first of them.
        dst: Address,
        /// How many.
        bytes: usize,
    },
    /// Bytes are copied on the device.
    Copy {
        /// From here.
        src: Address,
        /// To here.
        dst: Address,
        /// How many.
        bytes: usize,
    },
    /// Bytes are sent from the host.
    Upload {
        /// To here.
        dst: Address,
        /// Which.
        data: Upload<'a>,
    },
}

/// What is sent from the host. What it must be turned into first, it becomes when it is sent.
#[derive(Debug, Clone, Copy)]
pub enum Upload<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// These elements as f32.
    Widened(Floats<'a>),
    /// The first elements of a random tensor, as elements of this type: Bf16 or F32.
    Made(NearNormal, usize, DType),
}

impl<'a> Upload<'a> {
    /// A tensor as elements of its own type, or as f32.
    pub fn new(src: HostTensor<'a>, to: DType) -> Self {
        match src.floats() {
            Ok(elements) if src.dtype != to => Self::Widened(elements),
            _ => Self::Bytes(src.bytes),
        }
    }

    /// Gives the bytes to `send`.
    pub fn with<T>(&self, send: impl FnOnce(&[u8]) -> T) -> T {
        match *self {
            Self::Bytes(bytes) => send(bytes),
            Self::Widened(from) => {
                let mut wide = vec![0.0f32; from.len()];
                from.read(0, &mut wide);
                send(bytemuck::cast_slice(&wide))
            }
            Self::Made(recipe, len, to) => {
                let elements = recipe.elements(len);
                Upload::new(HostTensor { dtype: DType::Bf16, bytes: bytemuck::cast_slice(&elements) }, to).with(send)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    fn sent(src: HostTensor, to: DType) -> Vec<u8> {
        Upload::new(src, to).with(<[u8]>::to_vec)
    }

    #[test]
    fn elements_become_f32_on_the_way_where_they_must() {
        let values = [1.5f32, -0.25, 3.0];
        let wide: &[u8] = bytemuck::cast_slice(&values);
        let (bf, half) = (values.map(bf16::from_f32), values.map(f16::from_f32));
        let bf = HostTensor { dtype: DType::Bf16, bytes: bytemuck::cast_slice(&bf) };
        assert_eq!(sent(HostTensor { dtype: DType::F32, bytes: wide }, DType::F32), wide);
        assert_eq!(sent(bf, DType::F32), wide);
        assert_eq!(sent(bf, DType::Bf16), bf.bytes);
        assert_eq!(sent(HostTensor { dtype: DType::F16, bytes: bytemuck::cast_slice(&half) }, DType::F32), wide);
        let made = |to| Upload::Made(NearNormal::new(7, 0.5), 12, to).with(<[u8]>::to_vec);
        let bytes = made(DType::Bf16);
        assert_eq!(bytes, bytemuck::cast_slice::<_, u8>(&NearNormal::new(7, 0.5).elements(12)));
        assert_eq!(made(DType::F32), sent(HostTensor { dtype: DType::Bf16, bytes: &bytes }, DType::F32));
    }
}
