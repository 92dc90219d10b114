//! Known answers: divergence, barriers, shuffles, votes, atomics, memory spaces, ldmatrix, mma, cp.async.

use crate::common::{Noise, bf16, download_u32, from_bf16, machine, run, upload, wrap};
use ptxvm::{Args, Config, FaultKind, Module, Vm};

/// Runs a body that leaves one word a thread in `%r4`.
fn words(body: &str, threads: u32) -> Vec<u32> {
    let mut vm = machine(7);
    let out = vm.alloc(4 * threads as u64).unwrap();
    let text = format!("{body}\nadd.s64 %rd50, %rd0, %rd4; st.global.u32 [%rd50], %r4;");
    run(&mut vm, &text, 1, threads, [out, 0, 0, 0]).unwrap_or_else(|f| panic!("{f}"));
    download_u32(&vm, out, threads as usize)
}

fn check(body: &str, threads: u32, want: impl Fn(u32) -> u32) {
    for (t, got) in words(body, threads).into_iter().enumerate() {
        assert_eq!(got, want(t as u32), "thread {t}: {body}");
    }
}

#[test]
fn nested_branches_and_loops_meet_again() {
    // The Collatz length: every lane leaves the loop at its own time, with a branch inside.
    let collatz = "add.u32 %r1, %r0, 1; mov.u32 %r4, 0;
        LOOP: setp.eq.u32 %p1, %r1, 1; @%p1 bra OUT;
        and.b32 %r2, %r1, 1; setp.eq.u32 %p2, %r2, 0; @%p2 bra EVEN;
        mad.lo.u32 %r1, %r1, 3, 1; bra NEXT;
        EVEN: shr.u32 %r1, %r1, 1;
        NEXT: add.u32 %r4, %r4, 1; bra LOOP;
        OUT: activemask.b32 %r5; popc.b32 %r5, %r5; mad.lo.u32 %r4, %r5, 1000, %r4;";
    check(collatz, 100, |t| {
        let (mut n, mut steps) = (t as u64 + 1, 0);
        while n != 1 {
            n = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 };
            steps += 1;
        }
        // All lanes of the warp are together again behind the loop; the last warp has four.
        (if t < 96 { 32 } else { 4 }) * 1000 + steps
    });
    // Nested ifs with a break out of the inner loop.
    check(
        "mov.u32 %r4, 0; mov.u32 %r1, 0;
         OUTER: setp.ge.u32 %p1, %r1, %r0; @%p1 bra DONE;
         mov.u32 %r2, 0;
         INNER: add.u32 %r4, %r4, 1; setp.eq.u32 %p2, %r2, %r1; @%p2 bra BROKE;
         add.u32 %r2, %r2, 1; setp.lt.u32 %p3, %r2, 5; @%p3 bra INNER;
         add.u32 %r4, %r4, 100;
         BROKE: add.u32 %r1, %r1, 1; bra OUTER;
         DONE:",
        32,
        |t| (0..t).map(|i| if i < 5 { i + 1 } else { 105 }).sum(),
    );
}

#[test]
fn early_exit_and_indexed_branches() {
    let mut vm = machine(0);
    let out = vm.alloc(4 * 64).unwrap();
    vm.fill(out, 0, 256).unwrap();
    let body = "setp.gt.u32 %p1, %r0, 40; @%p1 exit;
        setp.lt.u32 %p2, %r0, 3; @%p2 bra END;
        and.b32 %r1, %r0, 3;
        TABLE: .branchtargets A, B, C, B;
        brx.idx %r1, TABLE;
        A: mov.u32 %r4, 10; bra JOIN; B: mov.u32 %r4, 20; bra JOIN; C: mov.u32 %r4, 30;
        JOIN: activemask.b32 %r5; add.u32 %r4, %r4, %r5;
        add.s64 %rd50, %rd0, %rd4; st.global.u32 [%rd50], %r4;
        END:";
    run(&mut vm, body, 1, 64, [out, 0, 0, 0]).unwrap_or_else(|f| panic!("{f}"));
    for (t, got) in download_u32(&vm, out, 64).into_iter().enumerate() {
        let mask = if t < 32 { !7u32 } else { 0x1ff };
        let want = if !(3..=40).contains(&t) { 0 } else { [10u32, 20, 30, 20][t & 3].wrapping_add(mask) };
        assert_eq!(got, want, "thread {t}");
    }
}

#[test]
fn special_registers() {
    check("mov.u32 %r4, %laneid;", 70, |t| t % 32);
    check("mov.u32 %r4, %warpid;", 70, |t| t / 32);
    check("mov.u32 %r4, %lanemask_lt;", 64, |t| (1 << (t % 32)) - 1);
    check("mov.u32 %r1, %ntid.x; mov.u32 %r2, %nctaid.y; mad.lo.u32 %r4, %r1, 10, %r2;", 33, |_| 331);
    let module = Module::parse(&wrap(
        "mov.u32 %r1, %ctaid.z; mov.u32 %r2, %ctaid.y; mov.u32 %r3, %ctaid.x; mad.lo.u32 %r5, %r1, 3, %r2; mad.lo.u32 %r5, %r5, 5, %r3;
         mov.u32 %r6, %tid.y; mov.u32 %r7, %tid.z; mad.lo.u32 %r8, %r7, 2, %r6; mad.lo.u32 %r8, %r8, 4, %r0;
         mad.lo.u32 %r9, %r5, 24, %r8; mul.wide.u32 %rd10, %r9, 4; add.s64 %rd10, %rd10, %rd0; st.global.u32 [%rd10], %r9;",
    ))
    .unwrap();
    let mut vm = machine(0);
    let out = vm.alloc(4 * 30 * 24).unwrap();
    vm.launch(&module, "k", (5, 3, 2), (4, 2, 3), 0, Args::new().u64(out).u64(0).u64(0).u64(0).bytes()).unwrap();
    assert_eq!(download_u32(&vm, out, 720), (0..720).collect::<Vec<u32>>());
}

#[test]
fn shuffles() {
    check("shfl.sync.bfly.b32 %r4, %r0, 5, 31, -1;", 64, |t| t ^ 5);
    check("shfl.sync.idx.b32 %r4, %r0, 3, 31, -1;", 64, |t| t / 32 * 32 + 3);
    check(
        "shfl.sync.down.b32 %r4|%p1, %r0, 4, 31, -1; @!%p1 mov.u32 %r4, 99;",
        32,
        |t| if t < 28 { t + 4 } else { 99 },
    );
    check("shfl.sync.up.b32 %r4|%p1, %r0, 4, 0, -1; @!%p1 mov.u32 %r4, 99;", 32, |t| if t >= 4 { t - 4 } else { 99 });
    // Segments of eight: mask 0x18 in the upper byte.
    check("shfl.sync.down.b32 %r4|%p1, %r0, 3, 0x181f, -1; @!%p1 mov.u32 %r4, 99;", 32, |t| {
        if t % 8 < 5 { t + 3 } else { 99 }
    });
    check("shfl.sync.idx.b32 %r4, %r0, 2, 0x181f, -1;", 32, |t| t / 8 * 8 + 2);
}

#[test]
fn votes_matches_reductions() {
    let pred = "and.b32 %r1, %r0, 3; setp.eq.u32 %p1, %r1, 1;";
    check(&format!("{pred} vote.sync.ballot.b32 %r4, %p1, -1;"), 32, |_| 0x2222_2222);
    check(
        &format!(
            "{pred} vote.sync.any.pred %p2, %p1, -1; vote.sync.all.pred %p3, !%p1, -1; selp.u32 %r4, 1, 0, %p2; @%p3 add.u32 %r4, %r4, 2;"
        ),
        32,
        |_| 1,
    );
    check("and.b32 %r1, %r0, 3; match.any.sync.b32 %r4, %r1, -1;", 32, |t| 0x1111_1111 << (t & 3));
    check("match.all.sync.b32 %r4|%p1, %r0, -1; @%p1 mov.u32 %r4, 7;", 32, |_| 0);
    check("redux.sync.add.s32 %r4, %r0, -1;", 64, |t| if t < 32 { 496 } else { 1520 });
    check("sub.u32 %r1, %r0, 5; redux.sync.min.s32 %r4, %r1, -1;", 32, |_| -5i32 as u32);
    check("sub.u32 %r1, %r0, 5; redux.sync.max.u32 %r4, %r1, -1;", 32, |_| u32::MAX);
    check("mov.u32 %r4, 0; elect.sync %r5|%p1, -1; @%p1 mov.u32 %r4, 1;", 64, |t| (t % 32 == 0) as u32);
}

#[test]
fn barriers_reduce_and_name() {
    let shared = ".shared .align 4 .b8 s[512]; mov.u32 %r20, s; shl.b32 %r21, %r0, 2; add.u32 %r21, %r20, %r21;";
    check(
        &format!("{shared} st.shared.u32 [%r21], %r0; bar.sync 0; xor.b32 %r22, %r21, 256; ld.shared.u32 %r4, [%r22];"),
        128,
        |t| t ^ 64,
    );
    check("setp.gt.u32 %p1, %r0, 60; bar.red.popc.u32 %r4, 0, %p1;", 96, |_| 35);
    check(
        "setp.gt.u32 %p1, %r0, 94; bar.red.or.pred %p2, 0, %p1; bar.red.and.pred %p3, 0, %p1; selp.u32 %r4, 1, 0, %p2; @%p3 add.u32 %r4, %r4, 2;",
        96,
        |_| 1,
    );
    // Producer warp 0, consumer warp 1, over named barriers: 1 says full, 2 says empty.
    check(
        &format!(
            "{shared} mov.u32 %r4, 0; mov.u32 %r1, 0; setp.ge.u32 %p1, %r0, 32; @%p1 bra CONSUME;
             PRODUCE: add.u32 %r2, %r0, %r1; st.shared.u32 [%r21], %r2; bar.arrive 1, 64; bar.sync 2, 64;
             add.u32 %r1, %r1, 1; setp.lt.u32 %p2, %r1, 5; @%p2 bra PRODUCE; bra END;
             CONSUME: bar.sync 1, 64; ld.shared.u32 %r2, [%r21-128]; add.u32 %r4, %r4, %r2; bar.arrive 2, 64;
             add.u32 %r1, %r1, 1; setp.lt.u32 %p2, %r1, 5; @%p2 bra CONSUME;
             END:"
        ),
        64,
        |t| if t < 32 { 0 } else { 5 * (t - 32) + 10 },
    );
}

#[test]
fn memory_spaces_and_vectors() {
    // Local memory, indexed; generic addresses of local and shared memory.
    check(
        ".local .align 16 .b8 l[64]; mov.u64 %rd10, l; cvta.local.u64 %rd11, %rd10;
         and.b32 %r1, %r0, 7; mul.wide.u32 %rd12, %r1, 4; add.s64 %rd13, %rd11, %rd12;
         st.u32 [%rd13], %r0; add.s64 %rd14, %rd10, %rd12; ld.local.u32 %r4, [%rd14];",
        64,
        |t| t,
    );
    check(
        ".shared .align 16 .b8 s[1024]; mov.u64 %rd10, s; cvta.shared.u64 %rd11, %rd10; mul.wide.u32 %rd12, %r0, 16;
         add.s64 %rd13, %rd11, %rd12; add.u32 %r1, %r0, 1; add.u32 %r2, %r0, 2; add.u32 %r3, %r0, 3;
         st.v4.u32 [%rd13], {%r0, %r1, %r2, %r3}; cvta.to.shared.u64 %rd14, %rd13; ld.shared.v2.u32 {%r5, %r6}, [%rd14+8];
         mad.lo.u32 %r4, %r5, 1000, %r6;",
        64,
        |t| (t + 2) * 1000 + t + 3,
    );
    check(
        ".shared .align 16 .b8 s[64]; mov.u32 %r1, s; add.u32 %r1, %r1, %r0; cvt.u16.u32 %rs1, %r0; neg.s16 %rs1, %rs1;
         st.shared.u8 [%r1], %rs1; ld.shared.s8 %r4, [%r1];",
        64,
        |t| (t as i32).wrapping_neg() as u32,
    );
}

#[test]
fn module_variables_and_struct_parameters() {
    let text = ".version 8.0 .target sm_80 .address_size 64
        .const .align 4 .b8 table[16] = {1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4};
        .global .align 8 .u64 total = 40;
        .global .align 4 .f32 floats[4] = {0f3F800000, 2.0, 3.5};
        .extern .shared .align 16 .b8 dyn[];
        .visible .entry k(.param .align 8 .b8 s[24], .param .u32 n) .maxntid 64, 1, 1 .minnctapersm 2 {
            .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .f32 %f<3>;
            ld.param.u64 %rd1, [s+8]; ld.param.v2.u32 {%r1, %r2}, [s+16]; ld.param.u8 %r3, [s]; ld.param.u32 %r4, [n];
            ld.const.u32 %r5, [table+8];
            mov.u64 %rd2, floats; ld.global.f32 %f1, [%rd2+8]; cvt.rzi.u32.f32 %r6, %f1;
            atom.global.add.u64 %rd3, [total], 2;
            add.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r3; add.u32 %r1, %r1, %r4; add.u32 %r1, %r1, %r5; add.u32 %r1, %r1, %r6;
            mov.u64 %rd4, dyn; st.shared.u32 [%rd4+28], %r1; ld.shared.u32 %r7, [dyn+28];
            st.global.u32 [%rd1], %r7; ret; }";
    let module = Module::parse(text).unwrap();
    let info = module.kernel("k").unwrap();
    assert_eq!((info.param_bytes, info.max_threads, info.min_blocks_per_sm), (28, Some(64), Some(2)));
    assert_eq!(info.params, vec![(0, 24, 8), (24, 4, 4)]);
    let mut vm = machine(0);
    let out = vm.alloc(4).unwrap();
    let mut s = [0u8; 24];
    s[0] = 200;
    s[8..16].copy_from_slice(&out.to_le_bytes());
    s[16] = 10;
    s[20] = 20;
    let args = Args::new().raw(8, &s).u32(1000);
    vm.launch(&module, "k", 1, 1, 32, args.bytes()).unwrap_or_else(|f| panic!("{f}"));
    assert_eq!(download_u32(&vm, out, 1)[0], 10 + 20 + 200 + 1000 + 3 + 3);
    let (total, size) = vm.variable(&module, "total").unwrap();
    assert_eq!((download_u32(&vm, total, 1)[0], size), (42, 8));
    // The launch is refused when it does not fit the kernel.
    let refused = |vm: &mut Vm, threads: u32, shared: u32, bytes: &[u8]| {
        vm.launch(&module, "k", 1, threads, shared, bytes).unwrap_err().kind
    };
    assert_eq!(refused(&mut vm, 65, 32, args.bytes()), FaultKind::Launch);
    assert_eq!(refused(&mut vm, 1, 1 << 20, args.bytes()), FaultKind::Launch);
    assert_eq!(refused(&mut vm, 1, 32, &args.bytes()[..24]), FaultKind::Launch);
    assert_eq!(refused(&mut vm, 1, 16, args.bytes()), FaultKind::OutOfBounds);
}

#[test]
fn atomics() {
    let mut vm = machine(5);
    let cells = vm.alloc(64).unwrap();
    vm.fill(cells, 0, 64).unwrap();
    let body = "atom.global.add.u32 %r1, [%rd0], 1; red.global.max.s32 [%rd0+4], %r0; red.global.or.b32 [%rd0+8], 5;
        mov.f32 %f1, 0f3F000000; red.global.add.f32 [%rd0+12], %f1; atom.global.add.f64 %fd1, [%rd0+16], 0d3FD0000000000000;
        atom.global.inc.u32 %r2, [%rd0+24], 6; atom.global.cas.b32 %r3, [%rd0+28], 0, 77; red.global.add.u64 [%rd0+32], %rd4;
        atom.global.min.u32 %r4, [%rd0+40], %r0; mov.b32 %r5, 0x3f803f80; red.global.add.noftz.bf16x2 [%rd0+44], %r5;";
    run(&mut vm, body, 8, 64, [cells, 0, 0, 0]).unwrap_or_else(|f| panic!("{f}"));
    let v = download_u32(&vm, cells, 12);
    assert_eq!(&v[..3], &[512, 63, 5]);
    assert_eq!(f32::from_bits(v[3]), 256.0);
    assert_eq!(f64::from_bits((v[5] as u64) << 32 | v[4] as u64), 128.0);
    assert_eq!((v[6], v[7], v[8], v[10]), (512 % 7, 77, 8 * 4 * (63 * 64 / 2), 0));
    // bf16 counts to 256 and then no further: 256 + 1 rounds back.
    assert_eq!(v[11], 0x4380_4380);
    check(
        ".shared .align 4 .b8 s[8]; mov.u32 %r1, s; setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [%r1], 0; bar.sync 0;
         atom.shared.add.u32 %r2, [%r1], 2; bar.sync 0; ld.shared.u32 %r4, [%r1];",
        96,
        |_| 192,
    );
}

#[test]
fn matrices_spread_and_multiply() {
    // One 16x16 by 16x8 product through ldmatrix, and its transposed twin.
    let (mut noise, k) = (Noise::new(3), 16);
    let a: Vec<u16> = (0..256).map(|_| bf16(noise.unit())).collect();
    let b: Vec<u16> = (0..128).map(|_| bf16(noise.unit())).collect();
    let c: Vec<u32> = (0..128).map(|_| noise.unit().to_bits()).collect();
    // B as 8 rows of 16 (n, k) for the plain load, as 16 rows of 8 (k, n) for the transposed one.
    let bt: Vec<u16> = (0..128).map(|i| b[(i % 8) * 16 + i / 8]).collect();
    for trans in [false, true] {
        let mut vm = machine(0);
        let pa = upload(&mut vm, &a, u16::to_le_bytes);
        let pb = upload(&mut vm, if trans { &bt } else { &b }, u16::to_le_bytes);
        let pc = upload(&mut vm, &c, u32::to_le_bytes);
        let out = vm.alloc(512).unwrap();
        let load_b = if trans {
            // Lane l: row l of 16 bytes.
            "shl.b32 %r12, %r10, 4; add.u32 %r12, %r12, %r20; ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r5, %r6}, [%r12+512];"
        } else {
            // Lane l: row l % 8, half l / 8.
            "and.b32 %r12, %r10, 7; shl.b32 %r12, %r12, 5; shr.u32 %r13, %r10, 3; and.b32 %r13, %r13, 1; shl.b32 %r13, %r13, 4;
             add.u32 %r12, %r12, %r13; add.u32 %r12, %r12, %r20; ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r5, %r6}, [%r12+512];"
        };
        let body = format!(
            ".shared .align 16 .b8 s[768]; mov.u32 %r20, s; mul.wide.u32 %rd10, %r0, 16; add.s64 %rd11, %rd1, %rd10;
             cvt.u32.u64 %r21, %rd10; add.u32 %r21, %r21, %r20; and.b32 %r10, %r0, 15;
             ld.global.v4.u32 {{%r1, %r2, %r3, %r4}}, [%rd11]; st.shared.v4.u32 [%r21], {{%r1, %r2, %r3, %r4}};
             mul.wide.u32 %rd12, %r10, 16; add.s64 %rd11, %rd2, %rd12; cvt.u32.u64 %r21, %rd12; add.u32 %r21, %r21, %r20;
             setp.lt.u32 %p1, %r0, 16;
             @%p1 ld.global.v4.u32 {{%r1, %r2, %r3, %r4}}, [%rd11]; @%p1 st.shared.v4.u32 [%r21+512], {{%r1, %r2, %r3, %r4}};
             bar.warp.sync -1;
             and.b32 %r11, %r0, 15; shl.b32 %r11, %r11, 5; shr.u32 %r12, %r0, 4; shl.b32 %r12, %r12, 4; add.u32 %r11, %r11, %r12; add.u32 %r11, %r11, %r20;
             ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r1, %r2, %r3, %r4}}, [%r11];
             {load_b}
             shr.u32 %r13, %r0, 2; and.b32 %r14, %r0, 3; shl.b32 %r13, %r13, 5; shl.b32 %r14, %r14, 3; add.u32 %r13, %r13, %r14;
             cvt.u64.u32 %rd15, %r13; add.s64 %rd16, %rd3, %rd15; add.s64 %rd17, %rd0, %rd15;
             ld.global.v2.f32 {{%f1, %f2}}, [%rd16]; ld.global.v2.f32 {{%f3, %f4}}, [%rd16+256];
             mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {{%f5, %f6, %f7, %f8}}, {{%r1, %r2, %r3, %r4}}, {{%r5, %r6}}, {{%f1, %f2, %f3, %f4}};
             st.global.v2.f32 [%rd17], {{%f5, %f6}}; st.global.v2.f32 [%rd17+256], {{%f7, %f8}};"
        );
        run(&mut vm, &body, 1, 32, [out, pa, pb, pc]).unwrap_or_else(|f| panic!("{f}"));
        for (i, got) in download_u32(&vm, out, 128).into_iter().enumerate() {
            let (row, col) = (i / 8, i % 8);
            let mut want = f32::from_bits(c[i]) as f64;
            for j in 0..k {
                want += from_bf16(a[row * 16 + j]) as f64 * from_bf16(b[col * 16 + j]) as f64;
            }
            assert_eq!(f32::from_bits(got), want as f32, "element ({row},{col}), trans {trans}");
        }
    }
    check("movmatrix.sync.aligned.m8n8.trans.b16 %r4, %r0;", 32, |l| {
        // Element (r, c) is the half of lane 4r + c/2: its number in the low half, zero in the high one.
        let element = |r: u32, c: u32| if c.is_multiple_of(2) { 4 * r + c / 2 } else { 0 };
        let (r, c) = (2 * (l % 4), l / 4);
        element(r, c) | element(r + 1, c) << 16
    });
}

#[test]
fn asynchronous_copies_arrive_at_their_wait() {
    let mut vm = Vm::new(Config { detect: ptxvm::Detect::NONE, ..Config::default() });
    let src = upload(&mut vm, &(1..=64u32).collect::<Vec<_>>(), u32::to_le_bytes);
    let out = vm.alloc(12 * 16).unwrap();
    let body = ".shared .align 16 .b8 s[512]; mov.u32 %r20, s; shl.b32 %r21, %r0, 4; add.u32 %r21, %r21, %r20;
        mul.wide.u32 %rd10, %r0, 16; add.s64 %rd11, %rd1, %rd10; mul.wide.u32 %rd12, %r0, 12; add.s64 %rd12, %rd12, %rd0;
        st.shared.u32 [%r21], 500; st.shared.u32 [%r21+256], 500;
        cp.async.cg.shared.global [%r21], [%rd11], 16, 4; cp.async.commit_group;
        cp.async.ca.shared.global [%r21+256], [%rd11+8], 8; cp.async.commit_group;
        cp.async.wait_group 1;
        ld.shared.u32 %r1, [%r21]; ld.shared.u32 %r2, [%r21+256]; ld.shared.u32 %r3, [%r21+8]; mad.lo.u32 %r1, %r3, 1000, %r1;
        cp.async.wait_all; ld.shared.u32 %r3, [%r21+260];
        st.global.u32 [%rd12], %r1; st.global.u32 [%rd12+4], %r2; st.global.u32 [%rd12+8], %r3;";
    run(&mut vm, body, 1, 16, [out, src, 0, 0]).unwrap_or_else(|f| panic!("{f}"));
    for (t, got) in download_u32(&vm, out, 48).chunks(3).enumerate() {
        let t = t as u32;
        // The first group is here, zeros behind its four bytes; the second is not until wait_all.
        assert_eq!(got, [4 * t + 1, 500, 4 * t + 4], "thread {t}");
    }
}

#[test]
fn a_schedule_repeats_and_seeds_differ() {
    // Ticket order of warps: depends on the schedule only.
    let order = |seed| {
        let mut vm = Vm::new(Config { threads: 1, seed, quantum: 5, ..Config::default() });
        let at = vm.alloc(4).unwrap();
        vm.fill(at, 0, 4).unwrap();
        let out = vm.alloc(4 * 512).unwrap();
        run(
            &mut vm,
            "atom.global.add.u32 %r4, [%rd1], 1; add.s64 %rd50, %rd0, %rd4; st.global.u32 [%rd50], %r4;",
            1,
            512,
            [out, at, 0, 0],
        )
        .unwrap();
        download_u32(&vm, out, 512)
    };
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
}

#[test]
fn counters_see_conflicts_sectors_and_divergence() {
    let count = |body: &str| {
        let mut vm = machine(0);
        let p: Vec<u64> = (0..2).map(|_| vm.alloc(1 << 16).unwrap()).collect();
        vm.fill(p[1], 0, 1 << 16).unwrap();
        run(&mut vm, body, 1, 32, [p[0], p[1], 0, 0]).unwrap_or_else(|f| panic!("{f}"))
    };
    let store = |stride: u32, op: &str| {
        let body =
            format!(".shared .align 16 .b8 s[16384]; mov.u32 %r20, s; mad.lo.u32 %r21, %r0, {stride}, %r20; {op}");
        let c = count(&body);
        (c.shared_wavefronts, c.shared_wavefronts_ideal)
    };
    assert_eq!(store(4, "st.shared.u32 [%r21], %r0;"), (1, 1));
    assert_eq!(store(8, "st.shared.u32 [%r21], %r0;"), (2, 1));
    assert_eq!(store(128, "st.shared.u32 [%r21], %r0;"), (32, 1));
    assert_eq!(store(132, "st.shared.u32 [%r21], %r0;"), (1, 1));
    assert_eq!(store(16, "st.shared.v4.u32 [%r21], {%r0, %r0, %r0, %r0};"), (4, 4));
    assert_eq!(store(32, "st.shared.v4.u32 [%r21], {%r0, %r0, %r0, %r0};"), (8, 4));
    // ldmatrix rows 32 bytes apart: eight of them cover all banks twice.
    let matrix = "st.shared.v4.u32 [%r21], {%r0, %r0, %r0, %r0}; st.shared.v4.u32 [%r21+16], {%r0, %r0, %r0, %r0};
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2, %r3, %r4}, [%r21];";
    assert_eq!(store(32, matrix), (8 + 8 + 8, 4 + 4 + 4));
    let load = |stride: u32| {
        let c =
            count(&format!("mul.wide.u32 %rd9, %r0, {stride}; add.s64 %rd9, %rd9, %rd1; ld.global.u32 %r4, [%rd9];"));
        (c.global_load_requests, c.global_load_sectors, c.global_load_bytes)
    };
    assert_eq!(load(4), (1, 4, 128));
    assert_eq!(load(32), (1, 32, 128));
    assert_eq!(load(0), (1, 1, 128));
    let c = count("setp.lt.u32 %p1, %r0, 5; @%p1 bra A; add.u32 %r1, %r1, 1; A: ret;");
    assert_eq!(c.divergent_branches, 1);
    let c = count(".local .b8 l[16]; mov.u64 %rd9, l; st.local.u32 [%rd9], 1; ld.local.u32 %r4, [%rd9];");
    assert_eq!((c.local_accesses, c.of(ptxvm::Class::Local)), (2, 2));
}
