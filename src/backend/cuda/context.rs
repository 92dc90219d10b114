//! What launches are made from beside the operation: the chip, and where buffers lie.

use super::launch::Address;
use crate::backend::{Buffer, Space};

/// What the choice of a kernel depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chip {
    /// Streaming multiprocessors that this process may use (a MIG slice has fewer).
    pub sms: u32,
    /// Bytes of shared memory that one block may have (opt-in limit).
    pub shared_per_block: u32,
    /// Bytes of shared memory of one multiprocessor.
    pub shared_per_sm: u32,
}

/// How a product with packed NF4 weights is computed. The bits of the result are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Nf4Path {
    /// The product's kernel decodes the weights itself.
    #[default]
    Fused,
    /// The weight is dequantised to scratch first, and multiplied by the dense kernels.
    Scratch,
}

/// Where the arena begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Arena {
    /// Its part on the device.
    pub device: Address,
    /// Its part in pinned memory of the host.
    pub host: Address,
}

impl Arena {
    /// Address of a buffer.
    pub fn address(&self, b: Buffer) -> Address {
        let base = match b.space() {
            Space::Device => self.device,
            Space::Host => self.host,
        };
        base + b.offset() as u64
    }
}

/// What launches are made from. The addresses may be made up: nothing here touches a device.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The chip.
    pub chip: Chip,
    /// Address of a buffer that the operation has named, or of scratch.
    pub address: &'a dyn Fn(Buffer) -> Address,
    /// Memory on the device that the operation may use for itself.
    pub scratch: Buffer,
    /// How packed weights are multiplied.
    pub nf4: Nf4Path,
}

impl Context<'_> {
    /// Address of a buffer.
    pub fn of(&self, b: Buffer) -> Address {
        (self.address)(b)
    }

    /// Address of a buffer, 0 for none.
    pub fn of_some(&self, b: Option<Buffer>) -> Address {
        b.map_or(0, |b| self.of(b))
    }

    /// Address of `bytes` of scratch. Asked a second time it is the same memory.
    ///
    /// # Errors
    /// If there is not so much.
    pub fn scratch(&self, bytes: usize) -> Result<Address, String> {
        let have = self.scratch.bytes();
        if bytes > have {
            return Err(format!("needs {bytes} bytes of scratch, there are {have}"));
        }
        Ok(self.of(self.scratch))
    }
}
