//! A kernel launch as data: which kernel, how many blocks, which arguments. Nothing here talks to a device, so tests run
//! the same descriptions on the virtual machine that a driver runs on a GPU.

use bytemuck::NoUninit;

/// An address on the device.
pub type Address = u64;

/// One launch. See [`crate::backend::cuda::driver::Driver::launch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Name of the kernel file, without its ending.
    pub file: &'static str,
    /// Name of the kernel in it.
    pub kernel: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// The arguments.
    pub args: Args,
}

impl Launch {
    /// A launch without dynamic shared memory.
    pub fn new(file: &'static str, kernel: &'static str, grid: [u32; 3], threads: u32, args: Args) -> Self {
        Self { file, kernel, grid, threads, shared: 0, args }
    }

    /// True if there is nothing to do: an empty grid, which a driver would refuse.
    pub fn is_empty(&self) -> bool {
        self.grid.contains(&0)
    }
}

/// A kernel's arguments as the bytes of its parameter space: each at the next multiple of its alignment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args(Vec<u8>);

impl Args {
    /// No arguments yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a value: an address, a number, or a `#[repr(C)]` structure without padding that the kernel takes by value.
    #[must_use]
    pub fn with<T: NoUninit>(mut self, value: T) -> Self {
        self.0.resize(self.0.len().next_multiple_of(align_of::<T>()), 0);
        self.0.extend_from_slice(bytemuck::bytes_of(&value));
        self
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A size as the `int` or `uint32_t` that kernels take.
///
/// # Panics
/// If it does not fit: buffers of that many rows or columns are beyond any device's memory.
pub fn int(n: usize) -> u32 {
    u32::try_from(n).ok().filter(|&n| n <= i32::MAX as u32).expect("rows, columns and heads fit into an int")
}

/// Blocks of `per_block` that cover `n` things.
pub fn blocks(n: usize, per_block: usize) -> u32 {
    int(n.div_ceil(per_block))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_lie_at_multiples_of_their_size() {
        let args = Args::new().with(1u32).with(2u64).with(0.5f32);
        assert_eq!(args.bytes().len(), 20);
        assert_eq!(args.bytes()[8], 2);
        assert_eq!(args.bytes()[16..], 0.5f32.to_le_bytes());
    }

    #[test]
    fn blocks_cover() {
        assert_eq!((blocks(0, 8), blocks(1, 8), blocks(8, 8), blocks(9, 8)), (0, 1, 1, 2));
    }
}
