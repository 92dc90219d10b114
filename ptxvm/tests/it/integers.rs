//! Known answers: integer arithmetic, logic, shifts, bit fields, carries, predicates.

use crate::common::{Noise, download_u32, machine, run, upload};

/// Edge values and noise for three operands.
fn inputs(n: usize, seed: u64) -> Vec<u32> {
    const EDGES: [u32; 12] =
        [0, 1, 2, 31, 32, 33, 0x7fff_ffff, 0x8000_0000, 0x8000_0001, 0xffff_ffff, 0xffff_0000, 0x0001_0000];
    let mut noise = Noise::new(seed);
    (0..n)
        .map(
            |i| {
                if (i as u32 + seed as u32).is_multiple_of(3) {
                    EDGES[noise.bits() as usize % 12]
                } else {
                    noise.bits()
                }
            },
        )
        .collect()
}

/// Runs `body` (from `%r1..%r3` to `%r4`) on many triples against `want`.
fn check(body: &str, want: impl Fn(u32, u32, u32) -> u32) {
    const N: usize = 1024;
    let mut vm = machine(1);
    let sets: Vec<Vec<u32>> = (1..4).map(|s| inputs(N, s)).collect();
    let ptrs: Vec<u64> = sets.iter().map(|s| upload(&mut vm, s, u32::to_le_bytes)).collect();
    let out = vm.alloc(4 * N as u64).unwrap();
    let text = format!(
        "add.s64 %rd10, %rd1, %rd4; add.s64 %rd11, %rd2, %rd4; add.s64 %rd12, %rd3, %rd4; add.s64 %rd13, %rd0, %rd4;
         ld.global.u32 %r1, [%rd10]; ld.global.u32 %r2, [%rd11]; ld.global.u32 %r3, [%rd12];
         {body}
         st.global.u32 [%rd13], %r4;"
    );
    run(&mut vm, &text, 1, N as u32, [out, ptrs[0], ptrs[1], ptrs[2]]).unwrap_or_else(|f| panic!("{body}: {f}"));
    let got = download_u32(&vm, out, N);
    for i in 0..N {
        let (a, b, c) = (sets[0][i], sets[1][i], sets[2][i]);
        assert_eq!(got[i], want(a, b, c), "{body} of {a:#x} {b:#x} {c:#x}");
    }
}

#[test]
fn arithmetic_32() {
    check("add.s32 %r4, %r1, %r2;", |a, b, _| a.wrapping_add(b));
    check("sub.u32 %r4, %r1, -5;", |a, _, _| a.wrapping_add(5));
    check("mul.lo.s32 %r4, %r1, %r2;", |a, b, _| a.wrapping_mul(b));
    check("mul.hi.u32 %r4, %r1, %r2;", |a, b, _| ((a as u64 * b as u64) >> 32) as u32);
    check("mul.hi.s32 %r4, %r1, %r2;", |a, b, _| ((a as i32 as i64 * b as i32 as i64) >> 32) as u32);
    check("mad.lo.s32 %r4, %r1, %r2, %r3;", |a, b, c| a.wrapping_mul(b).wrapping_add(c));
    check("mad.hi.u32 %r4, %r1, %r2, %r3;", |a, b, c| (((a as u64 * b as u64) >> 32) as u32).wrapping_add(c));
    check("or.b32 %r5, %r2, 1; div.u32 %r4, %r1, %r5;", |a, b, _| a / (b | 1));
    check("or.b32 %r5, %r2, 1; div.s32 %r4, %r1, %r5;", |a, b, _| (a as i32).wrapping_div((b | 1) as i32) as u32);
    check("or.b32 %r5, %r2, 1; rem.s32 %r4, %r1, %r5;", |a, b, _| (a as i32).wrapping_rem((b | 1) as i32) as u32);
    check("or.b32 %r5, %r2, 1; rem.u32 %r4, %r1, %r5;", |a, b, _| a % (b | 1));
    check("min.s32 %r4, %r1, %r2;", |a, b, _| (a as i32).min(b as i32) as u32);
    check("max.u32 %r4, %r1, %r2;", |a, b, _| a.max(b));
    check("abs.s32 %r4, %r1;", |a, _, _| (a as i32).wrapping_abs() as u32);
    check("neg.s32 %r4, %r1;", |a, _, _| a.wrapping_neg());
    check("add.sat.s32 %r4, %r1, %r2;", |a, b, _| (a as i32).saturating_add(b as i32) as u32);
    check("sad.s32 %r4, %r1, %r2, %r3;", |a, b, c| c.wrapping_add((a as i32).abs_diff(b as i32)));
    check("dp4a.s32.s32 %r4, %r1, %r2, %r3;", |a, b, c| {
        let bytes = |v: u32| v.to_le_bytes().map(|x| x as i8 as i32);
        bytes(a).iter().zip(bytes(b)).fold(c, |s, (x, y)| s.wrapping_add((x * y) as u32))
    });
}

#[test]
fn logic_and_shifts() {
    check("and.b32 %r4, %r1, %r2;", |a, b, _| a & b);
    check("xor.b32 %r4, %r1, 255;", |a, _, _| a ^ 255);
    check("not.b32 %r4, %r1;", |a, _, _| !a);
    check("lop3.b32 %r4, %r1, %r2, %r3, 0xd8;", |a, b, c| (a & !c) | (b & c));
    check("shl.b32 %r4, %r1, %r2;", |a, b, _| a.checked_shl(b).unwrap_or(0));
    check("shr.u32 %r4, %r1, %r2;", |a, b, _| a.checked_shr(b).unwrap_or(0));
    check("shr.s32 %r4, %r1, %r2;", |a, b, _| (a as i32 >> b.min(31)) as u32);
    check("shf.l.wrap.b32 %r4, %r1, %r2, %r3;", |a, b, c| (((b as u64) << 32 | a as u64) << (c & 31) >> 32) as u32);
    check("shf.r.clamp.b32 %r4, %r1, %r2, %r3;", |a, b, c| (((b as u64) << 32 | a as u64) >> c.min(32)) as u32);
    check("prmt.b32 %r4, %r1, %r2, 0x5410;", |a, b, _| (a & 0xffff) | (b << 16));
    check("bfe.u32 %r4, %r1, 4, 9;", |a, _, _| a >> 4 & 511);
    check("bfe.s32 %r4, %r1, 4, 9;", |a, _, _| ((a << 19) as i32 >> 23) as u32);
    check("bfi.b32 %r4, %r1, %r2, 8, 12;", |a, b, _| (b & !0xf_ff00) | (a << 8 & 0xf_ff00));
    check("popc.b32 %r4, %r1;", |a, _, _| a.count_ones());
    check("clz.b32 %r4, %r1;", |a, _, _| a.leading_zeros());
    check("brev.b32 %r4, %r1;", |a, _, _| a.reverse_bits());
    check("bfind.u32 %r4, %r1;", |a, _, _| if a == 0 { u32::MAX } else { 31 - a.leading_zeros() });
    check("bfind.shiftamt.u32 %r4, %r1;", |a, _, _| if a == 0 { u32::MAX } else { a.leading_zeros() });
}

#[test]
fn wide_64() {
    check("mul.wide.s32 %rd20, %r1, %r2; shr.s64 %rd21, %rd20, 17; cvt.u32.u64 %r4, %rd21;", |a, b, _| {
        ((a as i32 as i64 * b as i32 as i64) >> 17) as u32
    });
    check(
        "mul.wide.u32 %rd20, %r1, %r2; mad.wide.u32 %rd21, %r3, %r1, %rd20; shr.u64 %rd21, %rd21, 32; cvt.u32.u64 %r4, %rd21;",
        |a, b, c| ((a as u64 * b as u64).wrapping_add(c as u64 * a as u64) >> 32) as u32,
    );
    check(
        "mov.b64 %rd20, {%r1, %r2}; mov.b64 %rd21, {%r2, %r3}; mul.hi.u64 %rd22, %rd20, %rd21; mov.b64 {_, %r4}, %rd22;",
        |a, b, c| {
            let (x, y) = ((b as u64) << 32 | a as u64, (c as u64) << 32 | b as u64);
            ((x as u128 * y as u128) >> 96) as u32
        },
    );
    check(
        "mov.b64 %rd20, {%r1, %r2}; or.b32 %r5, %r3, 1; cvt.u64.u32 %rd21, %r5; rem.u64 %rd22, %rd20, %rd21; cvt.u32.u64 %r4, %rd22;",
        |a, b, c| (((b as u64) << 32 | a as u64) % (c | 1) as u64) as u32,
    );
    check(
        "mov.b64 %rd20, {%r1, %r2}; bfi.b64 %rd21, %rd20, 0, 8, 40; shr.u64 %rd21, %rd21, 16; cvt.u32.u64 %r4, %rd21;",
        |a, b, _| {
            let x = (b as u64) << 32 | a as u64;
            ((x & ((1 << 40) - 1)) << 8 >> 16) as u32
        },
    );
    check(
        "mov.b64 %rd20, {%r1, %r2}; popc.b64 %r5, %rd20; clz.b64 %r6, %rd20; shl.b32 %r5, %r5, 8; add.u32 %r4, %r5, %r6;",
        |a, b, _| {
            let x = (b as u64) << 32 | a as u64;
            (x.count_ones() << 8) + x.leading_zeros()
        },
    );
}

#[test]
fn narrow_16() {
    check(
        "cvt.u16.u32 %rs1, %r1; cvt.u16.u32 %rs2, %r2; mul.lo.s16 %rs3, %rs1, %rs2; cvt.s32.s16 %r4, %rs3;",
        |a, b, _| (a as i16).wrapping_mul(b as i16) as i32 as u32,
    );
    check("mov.b32 {%rs1, %rs2}, %r1; add.s16 %rs3, %rs1, %rs2; mov.b32 %r4, {%rs3, %rs1};", |a, _, _| {
        (a as u16).wrapping_add((a >> 16) as u16) as u32 | a << 16
    });
    check("cvt.s8.s32 %r4, %r1;", |a, _, _| a as i8 as i32 as u32);
    check("cvt.u8.u32 %rs1, %r1; cvt.u32.u16 %r4, %rs1;", |a, _, _| a & 255);
    check("cvt.sat.s8.s32 %r4, %r1;", |a, _, _| (a as i32).clamp(-128, 127) as u32);
    check("mul.wide.u16 %r4, 40000, 50000;", |_, _, _| 2_000_000_000);
}

#[test]
fn carries() {
    // 96-bit a:b:c + c:a:b, low word first; the top word comes out.
    check("add.cc.u32 %r5, %r1, %r3; addc.cc.u32 %r6, %r2, %r1; addc.u32 %r4, %r3, %r2;", |a, b, c| {
        let x = (c as u128) << 64 | (b as u128) << 32 | a as u128;
        let y = (b as u128) << 64 | (a as u128) << 32 | c as u128;
        ((x + y) >> 64) as u32
    });
    check("sub.cc.u32 %r5, %r1, %r3; subc.u32 %r4, %r2, %r1;", |a, b, c| {
        ((((b as u64) << 32 | a as u64).wrapping_sub((a as u64) << 32 | c as u64)) >> 32) as u32
    });
    check("mad.lo.cc.u32 %r5, %r1, %r2, %r3; madc.hi.u32 %r4, %r1, %r2, %r3;", |a, b, c| {
        let low = ((a as u64 * b as u64) & 0xffff_ffff) + c as u64;
        (((a as u64 * b as u64) >> 32) as u32).wrapping_add(c).wrapping_add((low >> 32) as u32)
    });
}

#[test]
fn predicates_and_selection() {
    check("setp.lt.s32 %p1, %r1, %r2; selp.b32 %r4, %r3, 7, %p1;", |a, b, c| if (a as i32) < b as i32 { c } else { 7 });
    check(
        "setp.hi.u32 %p1, %r1, %r2; setp.ne.and.s32 %p2|%p3, %r3, 0, %p1; selp.b32 %r4, 1, 0, %p2; @%p3 mov.u32 %r4, 2;",
        |a, b, c| match (a > b, c != 0) {
            (true, true) => 1,
            (true, false) => 2,
            _ => 0,
        },
    );
    check(
        "setp.eq.u32 %p1, %r1, %r2; setp.ge.u32 %p2, %r1, %r3; xor.pred %p3, %p1, %p2; not.pred %p4, %p3; and.pred %p5, %p4, %p2; or.pred %p6, %p5, %p1; selp.u32 %r4, 1, 0, %p6;",
        |a, b, c| {
            let (p, q) = (a == b, a >= c);
            ((p == q && q) || p) as u32
        },
    );
    check("set.lt.u32.s32 %r4, %r1, %r2;", |a, b, _| if (a as i32) < b as i32 { u32::MAX } else { 0 });
    check("mov.u32 %r4, 5; setp.gt.u32 %p1, %r1, %r2; @!%p1 add.u32 %r4, %r4, %r3;", |a, b, c| {
        if a > b { 5 } else { c.wrapping_add(5) }
    });
}
