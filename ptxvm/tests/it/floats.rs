//! Known answers: floating arithmetic, rounding modes, comparisons, conversions, half precision, mma.

use crate::common::{Noise, bf16, download_u32, from_bf16, machine, run, upload};

fn inputs(n: usize, seed: u64) -> Vec<u32> {
    const EDGES: [f32; 14] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        3.0e38,
        -3.0e38,
        1.0e-40,
        -1.0e-40,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        2.5,
        1.0e-20,
    ];
    let mut noise = Noise::new(seed);
    (0..n)
        .map(|i| match (i as u64 + seed) % 4 {
            0 => EDGES[noise.bits() as usize % 14].to_bits(),
            1 => noise.bits(),
            _ => (noise.unit() * 100.0).to_bits(),
        })
        .collect()
}

/// Runs `body` (from `%f1..%f3` to `%r4`) on many triples; NaN results compare equal.
fn check(body: &str, want: impl Fn(f32, f32, f32) -> u32) {
    const N: usize = 1024;
    let mut vm = machine(1);
    let sets: Vec<Vec<u32>> = (1..4).map(|s| inputs(N, s)).collect();
    let ptrs: Vec<u64> = sets.iter().map(|s| upload(&mut vm, s, u32::to_le_bytes)).collect();
    let out = vm.alloc(4 * N as u64).unwrap();
    let text = format!(
        "add.s64 %rd10, %rd1, %rd4; add.s64 %rd11, %rd2, %rd4; add.s64 %rd12, %rd3, %rd4; add.s64 %rd13, %rd0, %rd4;
         ld.global.f32 %f1, [%rd10]; ld.global.f32 %f2, [%rd11]; ld.global.f32 %f3, [%rd12];
         {body}
         st.global.u32 [%rd13], %r4;"
    );
    run(&mut vm, &text, 1, N as u32, [out, ptrs[0], ptrs[1], ptrs[2]]).unwrap_or_else(|f| panic!("{body}: {f}"));
    for (i, got) in download_u32(&vm, out, N).into_iter().enumerate() {
        let [a, b, c] = [0, 1, 2].map(|s| f32::from_bits(sets[s][i]));
        assert_eq!(got, want(a, b, c), "{body} of {a:e} {b:e} {c:e}");
    }
}

fn bits(v: f32) -> u32 {
    if v.is_nan() { 0x7fff_ffff } else { v.to_bits() }
}

fn flush(v: f32) -> f32 {
    if v.is_subnormal() { 0f32.copysign(v) } else { v }
}

#[test]
fn single_precision() {
    check("add.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", |a, b, _| bits(a + b));
    check("sub.rn.f32 %f4, %f1, 0f3F800000; mov.b32 %r4, %f4;", |a, _, _| bits(a - 1.0));
    check("mul.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", |a, b, _| bits(a * b));
    check("fma.rn.f32 %f4, %f1, %f2, %f3; mov.b32 %r4, %f4;", |a, b, c| bits(a.mul_add(b, c)));
    check("div.rn.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", |a, b, _| bits(a / b));
    check("sqrt.rn.f32 %f4, %f1; mov.b32 %r4, %f4;", |a, _, _| bits(a.sqrt()));
    check("rcp.rn.f32 %f4, %f1; mov.b32 %r4, %f4;", |a, _, _| bits(1.0 / a));
    check("neg.f32 %f4, %f1; abs.f32 %f5, %f2; copysign.f32 %f6, %f4, %f5; mov.b32 %r4, %f6;", |a, b, _| {
        b.abs().copysign(-a).to_bits()
    });
    check("min.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", |a, b, _| match (a.is_nan(), b.is_nan()) {
        (false, false) if a == b => a.to_bits() | b.to_bits(),
        _ => bits(a.min(b)),
    });
    check("max.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", |a, b, _| match (a.is_nan(), b.is_nan()) {
        (false, false) if a == b => a.to_bits() & b.to_bits(),
        _ => bits(a.max(b)),
    });
    check("max.NaN.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", |a, b, _| {
        if a.is_nan() || b.is_nan() {
            0x7fff_ffff
        } else if a == b {
            a.to_bits() & b.to_bits()
        } else {
            a.max(b).to_bits()
        }
    });
    check("mul.ftz.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", |a, b, _| bits(flush(flush(a) * flush(b))));
    check("add.sat.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", |a, b, _| {
        let s = a + b;
        if s >= 1.0 {
            1f32.to_bits()
        } else if s > 0.0 {
            s.to_bits()
        } else {
            0
        }
    });
    check("ex2.approx.ftz.f32 %f4, %f1; mov.b32 %r4, %f4;", |a, _, _| bits(flush((flush(a) as f64).exp2() as f32)));
    check("lg2.approx.f32 %f4, %f1; mov.b32 %r4, %f4;", |a, _, _| bits((a as f64).log2() as f32));
    check("rsqrt.approx.f32 %f4, %f1; mov.b32 %r4, %f4;", |a, _, _| bits((1.0 / (a as f64).sqrt()) as f32));
    check("tanh.approx.f32 %f4, %f1; mov.b32 %r4, %f4;", |a, _, _| bits((a as f64).tanh() as f32));
}

#[test]
fn directed_rounding_brackets() {
    for op in ["add", "mul"] {
        let body = format!(
            "{op}.rm.f32 %f4, %f1, %f2; {op}.rp.f32 %f5, %f1, %f2; {op}.rn.f32 %f6, %f1, %f2; {op}.rz.f32 %f7, %f1, %f2;
             setp.le.f32 %p1, %f4, %f6; setp.le.and.f32 %p1, %f6, %f5, %p1;
             setp.lt.f32 %p2, %f4, 0f00000000; selp.f32 %f8, %f5, %f4, %p2; setp.eq.and.f32 %p1, %f7, %f8, %p1;
             selp.u32 %r4, 1, 0, %p1;"
        );
        check(&body, |a, b, _| {
            let r = if op == "add" { a + b } else { a * b };
            // The sign of an exact zero aside, every value is between its two neighbours.
            !r.is_nan() as u32
        });
    }
    check("fma.rz.f32 %f4, %f1, %f2, %f3; mov.b32 %r4, %f4;", |a, b, c| {
        let r = a.mul_add(b, c);
        if r.is_nan() {
            return 0x7fff_ffff;
        }
        if r.is_infinite() {
            return if a.is_infinite() || b.is_infinite() || c.is_infinite() {
                r.to_bits()
            } else {
                f32::MAX.copysign(r).to_bits()
            };
        }
        // Exact where f64 is: skip where it is not, by comparing with a wider product and sum.
        let (p, s) = (a as f64 * b as f64, a as f64 * b as f64 + c as f64);
        let back = s - p;
        let error = (p - (s - back)) + (c as f64 - back);
        let beyond = r as f64 - s;
        let too_far = if beyond != error { if r > 0.0 { beyond > error } else { beyond < error } } else { false };
        if r == 0.0 {
            if s == 0.0 { s as f32 } else { 0f32.copysign(s as f32) }.to_bits()
        } else if too_far {
            f32::from_bits(r.to_bits() - 1).to_bits()
        } else {
            r.to_bits()
        }
    });
}

fn ordered(a: f32, b: f32) -> bool {
    !a.is_nan() && !b.is_nan()
}

#[test]
fn comparisons() {
    for (name, want) in [
        ("eq", (|a, b| a == b) as fn(f32, f32) -> bool),
        ("ne", |a, b| ordered(a, b) && a != b),
        ("lt", |a, b| a < b),
        ("ge", |a, b| a >= b),
        ("equ", |a, b| !ordered(a, b) || a == b),
        ("neu", |a, b| a != b),
        ("ltu", |a, b| !ordered(a, b) || a < b),
        ("gtu", |a, b| !ordered(a, b) || a > b),
        ("geu", |a, b| !ordered(a, b) || a >= b),
        ("num", ordered),
        ("nan", |a, b| !ordered(a, b)),
    ] {
        check(&format!("setp.{name}.f32 %p1, %f1, %f2; selp.u32 %r4, 1, 0, %p1;"), |a, b, _| want(a, b) as u32);
    }
    check(
        "testp.notanumber.f32 %p1, %f1; testp.subnormal.f32 %p2, %f2; or.pred %p3, %p1, %p2; selp.u32 %r4, 1, 0, %p3;",
        |a, b, _| (a.is_nan() || b.is_subnormal()) as u32,
    );
}

#[test]
fn conversions() {
    check("cvt.rzi.s32.f32 %r4, %f1;", |a, _, _| a as i32 as u32);
    check("cvt.rni.s32.f32 %r4, %f1;", |a, _, _| a.round_ties_even() as i32 as u32);
    check("cvt.rmi.u32.f32 %r4, %f1;", |a, _, _| a.floor() as u32);
    check("cvt.rpi.f32.f32 %f4, %f1; mov.b32 %r4, %f4;", |a, _, _| bits(a.ceil()));
    check("cvt.rzi.s64.f32 %rd20, %f1; cvt.rn.f32.s64 %f4, %rd20; mov.b32 %r4, %f4;", |a, _, _| {
        let v = if a.is_nan() { i64::MIN } else { a as i64 };
        (v as f32).to_bits()
    });
    check("mov.b32 %r5, %f1; cvt.rn.f32.s32 %f4, %r5; mov.b32 %r4, %f4;", |a, _, _| {
        (a.to_bits() as i32 as f32).to_bits()
    });
    check("mov.b32 %r5, %f1; cvt.rz.f32.u32 %f4, %r5; mov.b32 %r4, %f4;", |a, _, _| {
        let v = a.to_bits();
        let keep = 32u32.saturating_sub(v.leading_zeros()).saturating_sub(24);
        ((v >> keep << keep) as f32).to_bits()
    });
    check(
        "cvt.f64.f32 %fd1, %f1; fma.rn.f64 %fd2, %fd1, %fd1, 0d3FF0000000000000; cvt.rn.f32.f64 %f4, %fd2; mov.b32 %r4, %f4;",
        |a, _, _| bits((a as f64).mul_add(a as f64, 1.0) as f32),
    );
    check(
        "cvt.rn.bf16.f32 %rs1, %f1; cvt.u32.u16 %r4, %rs1;",
        |a, _, _| if a.is_nan() { 0x7fff } else { bf16(a) as u32 },
    );
    check("cvt.rn.bf16x2.f32 %r4, %f1, %f2;", |a, b, _| {
        let c = |v: f32| if v.is_nan() { 0x7fff } else { bf16(v) as u32 };
        c(a) << 16 | c(b)
    });
    check("cvt.rn.f16.f32 %rs1, %f1; cvt.f32.f16 %f4, %rs1; mov.b32 %r4, %f4;", |a, _, _| {
        // Round to 11 bits (or to multiples of 2^-24) in f64.
        if a.is_nan() {
            return 0x7fff_ffff;
        }
        if a.is_infinite() {
            return a.to_bits();
        }
        let v = a as f64;
        let e = if v == 0.0 { 0 } else { (v.abs().log2().floor() as i32).max(-14) };
        let unit = 2f64.powi(e - 10);
        let r = (v / unit).round_ties_even() * unit;
        (if r.abs() > 65504.0 { f32::INFINITY.copysign(a) } else { (r as f32).copysign(a) }).to_bits()
    });
    check("cvt.sat.f32.f32 %f4, %f1; mov.b32 %r4, %f4;", |a, _, _| {
        if a >= 1.0 {
            1f32.to_bits()
        } else if a > 0.0 {
            a.to_bits()
        } else {
            0
        }
    });
    check("cvt.rna.tf32.f32 %r4, %f1;", |a, _, _| {
        if a.is_nan() {
            0x7fff_ffff
        } else if a.is_infinite() {
            a.to_bits()
        } else {
            a.to_bits().wrapping_add(0x1000) & !0x1fff
        }
    });
}

#[test]
fn packed_bf16() {
    let pack = "cvt.rn.bf16x2.f32 %r1, %f1, %f2; cvt.rn.bf16x2.f32 %r2, %f2, %f3; cvt.rn.bf16x2.f32 %r3, %f3, %f1;";
    let narrow = |v: f32| if v.is_nan() { f32::NAN } else { from_bf16(bf16(v)) };
    let out = |v: f64| if v.is_nan() { 0x7fff } else { bf16_of(v) };
    check(&format!("{pack} fma.rn.bf16x2 %r4, %r1, %r2, %r3;"), |a, b, c| {
        let [a, b, c] = [a, b, c].map(narrow);
        // The exact value in f64 would need more bits for far-apart exponents; there the sum is one operand and dust.
        let f = |x: f32, y: f32, z: f32| out_fma(x, y, z);
        (f(a, b, c)) << 16 | f(b, c, a)
    });
    check(&format!("{pack} mul.rn.bf16x2 %r4, %r1, %r2;"), |a, b, c| {
        let [a, b, c] = [a, b, c].map(narrow);
        out(a as f64 * b as f64) << 16 | out(b as f64 * c as f64)
    });
    check(&format!("{pack} max.bf16x2 %r4, %r1, %r2;"), |a, b, c| {
        let [a, b, c] = [a, b, c].map(narrow);
        let m = |x: f32, y: f32| if x == y { bf16(x) as u32 & bf16(y) as u32 } else { out(x.max(y) as f64) };
        m(a, b) << 16 | m(b, c)
    });
}

/// f64 to bf16, one rounding: to odd at f32 first.
fn bf16_of(v: f64) -> u32 {
    bf16(odd(v, 0.0)) as u32
}

/// The exact `s + e` as an f32 rounded to odd, from which a second rounding is harmless.
fn odd(s: f64, e: f64) -> f32 {
    let near = s as f32;
    let off = (s - near as f64) + e;
    if off == 0.0 || near.is_infinite() && s.is_infinite() || near.to_bits() & 1 == 1 && near.is_finite() {
        return near;
    }
    let away = (off > 0.0) == (s > 0.0);
    if near == 0.0 {
        f32::from_bits(1).copysign(s as f32)
    } else {
        f32::from_bits(if away { near.to_bits() + 1 } else { near.to_bits() - 1 })
    }
}

fn out_fma(x: f32, y: f32, z: f32) -> u32 {
    let p = x as f64 * y as f64;
    let s = p + z as f64;
    if s.is_nan() {
        return 0x7fff;
    }
    if !s.is_finite() || s == 0.0 {
        return bf16(s as f32) as u32;
    }
    let back = s - p;
    bf16(odd(s, (p - (s - back)) + (z as f64 - back))) as u32
}
