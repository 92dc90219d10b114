//! Helpers: bf16, random numbers, running a hand-written PTX body.

use ptxvm::{Args, Config, Counters, Fault, Module, Vm};

/// f32 to bf16, nearest even.
pub fn bf16(v: f32) -> u16 {
    let b = v.to_bits();
    ((b + 0x7fff + (b >> 16 & 1)) >> 16) as u16
}

/// bf16 bits to f32.
pub fn from_bf16(b: u16) -> f32 {
    f32::from_bits((b as u32) << 16)
}

/// A small deterministic generator.
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Noise {
        Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }

    /// Uniform in [-1, 1).
    pub fn unit(&mut self) -> f32 {
        self.bits() as i32 as f32 / 2f32.powi(31)
    }
}

pub fn machine(seed: u64) -> Vm {
    Vm::new(Config { seed, threads: 2, ..Config::default() })
}

/// Uploads values as bytes.
pub fn upload<T: Copy, const N: usize>(vm: &mut Vm, data: &[T], bytes: impl Fn(T) -> [u8; N]) -> u64 {
    let raw: Vec<u8> = data.iter().flat_map(|v| bytes(*v)).collect();
    let at = vm.alloc(raw.len().max(1) as u64).unwrap();
    vm.write(at, &raw).unwrap();
    at
}

pub fn download_u32(vm: &Vm, at: u64, n: usize) -> Vec<u32> {
    let mut raw = vec![0; 4 * n];
    vm.read(at, &mut raw).unwrap();
    raw.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
}

/// A module with one kernel `k(out, in0, in1, in2)`, all pointers; `%rd0..3` hold them, `%r0` the thread's number,
/// `%rd4` its byte offset for 4-byte elements, `%rd5` for 8-byte ones.
pub fn wrap(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p0, .param .u64 p1, .param .u64 p2, .param .u64 p3) {{
.reg .pred %p<32>; .reg .b16 %rs<32>; .reg .b32 %r<64>; .reg .f32 %f<64>; .reg .b64 %rd<64>; .reg .f64 %fd<32>;
ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1]; ld.param.u64 %rd2, [p2]; ld.param.u64 %rd3, [p3];
mov.u32 %r0, %tid.x; mul.wide.u32 %rd4, %r0, 4; mul.wide.u32 %rd5, %r0, 8;
{body}
ret; }}"
    )
}

/// Parses a body made by [`wrap`] and runs it.
pub fn run(vm: &mut Vm, body: &str, grid: u32, block: u32, ptrs: [u64; 4]) -> Result<Counters, Box<Fault>> {
    let module = Module::parse(&wrap(body)).unwrap_or_else(|e| panic!("{e}"));
    let args = ptrs.iter().fold(Args::new(), |a, p| a.u64(*p));
    vm.launch(&module, "k", grid, block, 0, args.bytes())
}
