//! `mma.sync` in every supported type and depth: fragments laid out by the ISA's tables, results exact.

use crate::common::{Noise, bf16, download_u32, from_bf16, machine, run, upload};

/// Small multiples of 1/8: exact in every float format, and so are all sums of their products.
fn values(noise: &mut Noise, n: usize) -> Vec<f64> {
    (0..n).map(|_| (noise.bits() % 15) as f64 / 8.0 - 0.875).collect()
}

/// f16 bits of a multiple of 1/8 below 1 in magnitude.
fn f16(v: f64) -> u16 {
    if v == 0.0 {
        return 0;
    }
    let e = v.abs().log2().floor() as i32;
    let fraction = ((v.abs() / 2f64.powi(e) - 1.0) * 1024.0) as u16;
    ((v < 0.0) as u16) << 15 | ((e + 15) as u16) << 10 | fraction
}

/// The fragments of a matrix of `rows` (M or N) by k, for elements of `bytes`: register, lane to 32 bits.
/// Lane `4g + t` of register `i + parts * j` holds elements from row `g + 8i` and column `t * per + 4 * per * j` on.
fn fragments(m: &[f64], rows: usize, k: usize, bytes: usize, encode: &dyn Fn(f64) -> u32) -> Vec<u32> {
    let per = 4 / bytes;
    let (parts, depth) = (rows / 8, k / (4 * per));
    let mut out = Vec::new();
    for j in 0..depth {
        for i in 0..parts {
            for lane in 0..32 {
                let (row, col) = (lane / 4 + 8 * i, lane % 4 * per + 4 * per * j);
                out.push((0..per).fold(0, |w, e| w | encode(m[row * k + col + e]) << (8 * bytes * e)));
            }
        }
    }
    out
}

fn check(name: &str, k: usize, bytes: usize, encode: &dyn Fn(f64) -> u32, scale: f64, accumulator: &str) {
    let mut noise = Noise::new(k as u64 + bytes as u64);
    let (a, b) = (values(&mut noise, 16 * k), values(&mut noise, 8 * k));
    let c = values(&mut noise, 128);
    let scaled = |v: &[f64]| v.iter().map(|x| x * scale).collect::<Vec<_>>();
    let (a, b, c) = (scaled(&a), scaled(&b), scaled(&c));
    let (fa, fb) = (fragments(&a, 16, k, bytes, encode), fragments(&b, 8, k, bytes, encode));
    // Accumulators: register r of lane 4g + t is (g + 8 (r / 2), 2t + r % 2); f16 ones are packed in pairs.
    let place = |r: usize, lane: usize| (lane / 4 + 8 * (r / 2)) * 8 + 2 * (lane % 4) + r % 2;
    let plain = |v: f64| match accumulator {
        "s32" => v as i32 as u32,
        _ => (v as f32).to_bits(),
    };
    let half = accumulator == "f16";
    let fc: Vec<u32> = if half {
        (0..64)
            .map(|i| {
                (f16(c[place(2 * (i / 32), i % 32)]) as u32) | (f16(c[place(2 * (i / 32) + 1, i % 32)]) as u32) << 16
            })
            .collect()
    } else {
        (0..128).map(|i| plain(c[place(i / 32, i % 32)])).collect()
    };
    let mut vm = machine(0);
    let [pa, pb, pc] = [&fa, &fb, &fc].map(|f| upload(&mut vm, f, u32::to_le_bytes));
    let out = vm.alloc(512).unwrap();
    let list = |first: usize, n: usize, prefix: &str| {
        (first..first + n).map(|i| format!("{prefix}{i}")).collect::<Vec<_>>().join(", ")
    };
    let (na, nb, nc) = (fa.len() / 32, fb.len() / 32, fc.len() / 32);
    let kind = if accumulator == "f32" { "%f" } else { "%r" };
    let mut body = String::new();
    for (base, n, first, prefix) in [(1, na, 10, "%r"), (2, nb, 20, "%r"), (3, nc, 30, kind)] {
        body += &format!("add.s64 %rd9, %rd{base}, %rd4;\n");
        for i in 0..n {
            body += &format!("ld.global.b32 {prefix}{}, [%rd9+{}];\n", first + i, 128 * i);
        }
    }
    body += &format!(
        "mma.sync.aligned.m16n8k{k}.row.col.{accumulator}.{name}.{name}.{accumulator} {{{}}}, {{{}}}, {{{}}}, {{{}}};\n",
        list(40, nc, kind),
        list(10, na, "%r"),
        list(20, nb, "%r"),
        list(30, nc, kind)
    );
    body += "add.s64 %rd9, %rd0, %rd4;\n";
    for i in 0..nc {
        body += &format!("st.global.b32 [%rd9+{}], {kind}{};\n", 128 * i, 40 + i);
    }
    run(&mut vm, &body, 1, 32, [out, pa, pb, pc]).unwrap_or_else(|f| panic!("{f}"));
    let got = download_u32(&vm, out, 32 * nc);
    for i in 0..128 {
        let (r, lane) = (i / 32, i % 32);
        let (row, col) = (place(r, lane) / 8, place(r, lane) % 8);
        let want = c[row * 8 + col] + (0..k).map(|j| a[row * k + j] * b[col * k + j]).sum::<f64>();
        let have = match accumulator {
            "s32" => got[i] as i32 as f64,
            "f32" => f32::from_bits(got[i]) as f64,
            _ => {
                let h = got[32 * (r / 2) + lane] >> (16 * (r % 2)) & 0xffff;
                let (e, f) = (h >> 10 & 31, (h & 1023) as f64);
                let v = if e == 0 { f * 2f64.powi(-24) } else { (1.0 + f / 1024.0) * 2f64.powi(e as i32 - 15) };
                if h >> 15 == 1 { -v } else { v }
            }
        };
        assert_eq!(have, want, "{name} k{k} {accumulator}: element ({row},{col})");
    }
}

#[test]
fn every_type_and_depth() {
    let b = |v: f64| bf16(v as f32) as u32;
    let h = |v: f64| f16(v) as u32;
    let t = |v: f64| (v as f32).to_bits();
    let s = |v: f64| v as i8 as u8 as u32;
    assert_eq!(from_bf16(b(0.875) as u16), 0.875);
    for k in [8, 16] {
        check("bf16", k, 2, &b, 1.0, "f32");
        check("f16", k, 2, &h, 1.0, "f32");
        check("f16", k, 2, &h, 1.0, "f16");
    }
    for k in [4, 8] {
        check("tf32", k, 4, &t, 1.0, "f32");
    }
    for k in [16, 32] {
        check("s8", k, 1, &s, 8.0, "s32");
    }
}
