//! A planted bug for every detector, and its correct twin that must stay silent.

use crate::common::{machine, run, wrap};
use ptxvm::{Args, Config, Detect, Fault, FaultKind, Module, Vm};

const SHARED: &str = ".shared .align 16 .b8 s[512]; mov.u32 %r20, s; shl.b32 %r21, %r0, 2; add.u32 %r21, %r21, %r20;";
const OUT: &str = "add.s64 %rd50, %rd0, %rd4; st.global.u32 [%rd50], %r4;";

/// Runs with an output of 4 bytes a thread of all blocks and an input of 1 KiB that is written.
fn go(seed: u64, body: &str, grid: u32, block: u32) -> Result<(), Box<Fault>> {
    // Short programs: switch warps often.
    let mut vm = Vm::new(Config { seed, threads: 2, quantum: 5, ..Config::default() });
    let out = vm.alloc((grid * block * 4) as u64).unwrap();
    let src = vm.alloc(1024).unwrap();
    vm.fill(src, 1, 1024).unwrap();
    let fresh = vm.alloc(1024).unwrap();
    run(&mut vm, body, grid, block, [out, src, fresh, 0]).map(|_| ())
}

fn caught(kind: FaultKind, body: &str, grid: u32, block: u32) -> Box<Fault> {
    let mut last = None;
    for seed in 0..6 {
        match go(seed, body, grid, block) {
            Err(f) => {
                assert_eq!(f.kind, kind, "{f}");
                assert_eq!(f.kernel, "k");
                assert!(f.line > 4, "{f}");
                last = Some(f);
            }
            Ok(()) => panic!("{kind:?} not found with seed {seed}: {body}"),
        }
    }
    last.unwrap()
}

fn silent(body: &str, grid: u32, block: u32) {
    for seed in 0..6 {
        go(seed, body, grid, block).unwrap_or_else(|f| panic!("{f}\nin: {body}"));
    }
}

#[test]
fn out_of_bounds() {
    let f = caught(
        FaultKind::OutOfBounds,
        "mov.u32 %r4, 1; add.s64 %rd50, %rd0, %rd4; st.global.u32 [%rd50+4], %r4;",
        1,
        64,
    );
    assert_eq!((f.block, f.thread), ([0, 0, 0], Some([63, 0, 0])));
    assert!(f.text.starts_with("st.global.u32 [%rd50+4]"), "{f}");
    assert!(f.to_string().contains("0 bytes behind the end of an allocation of 256 bytes"), "{f}");
    silent(&format!("mov.u32 %r4, 1; {OUT}"), 1, 64);
    caught(FaultKind::OutOfBounds, "ld.global.u32 %r4, [%rd1-4];", 1, 1);
    caught(FaultKind::OutOfBounds, "mov.u64 %rd9, 0; ld.u32 %r4, [%rd9];", 1, 1);
    caught(FaultKind::OutOfBounds, &format!("{SHARED} st.shared.u32 [%r21+4], %r0;"), 1, 128);
    silent(&format!("{SHARED} st.shared.u32 [%r21], %r0;"), 1, 128);
    caught(FaultKind::OutOfBounds, ".local .b8 l[16]; mov.u64 %rd9, l; st.local.u32 [%rd9+16], %r0;", 1, 1);
    // A write to .const memory through a generic address.
    let text = wrap("mov.u64 %rd9, c; cvta.const.u64 %rd9, %rd9; st.u32 [%rd9], %r0;")
        .replace(".visible", ".const .align 4 .u32 c = 3;\n.visible");
    let module = Module::parse(&text).unwrap();
    let f = machine(0).launch(&module, "k", 1, 1, 0, Args::new().u64(0).u64(0).u64(0).u64(0).bytes()).unwrap_err();
    assert_eq!(f.kind, FaultKind::OutOfBounds);
}

#[test]
fn misaligned() {
    caught(FaultKind::Misaligned, "ld.global.u32 %r4, [%rd1+2];", 1, 1);
    let f = caught(
        FaultKind::Misaligned,
        "add.s64 %rd9, %rd1, %rd4; ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd9];",
        1,
        32,
    );
    assert_eq!(f.thread, Some([1, 0, 0]));
    silent(
        "mul.wide.u32 %rd9, %r0, 16; add.s64 %rd9, %rd1, %rd9; ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd9];",
        1,
        32,
    );
    caught(FaultKind::Misaligned, &format!("{SHARED} st.shared.u64 [%r20+4], %rd4;"), 1, 1);
    caught(
        FaultKind::Misaligned,
        &format!("{SHARED} cp.async.cg.shared.global [%r20], [%rd1+8], 16; cp.async.wait_all;"),
        1,
        1,
    );
}

#[test]
fn uninitialised() {
    caught(FaultKind::Uninitialised, "ld.global.u32 %r4, [%rd2];", 1, 1);
    // One byte of four is missing.
    caught(
        FaultKind::Uninitialised,
        "st.global.u16 [%rd2], 1; st.global.u8 [%rd2+2], 1; ld.global.u32 %r4, [%rd2];",
        1,
        1,
    );
    silent(
        "st.global.u16 [%rd2], 1; st.global.u8 [%rd2+2], 1; st.global.u8 [%rd2+3], 1; ld.global.u32 %r4, [%rd2];",
        1,
        1,
    );
    caught(FaultKind::Uninitialised, "red.global.add.u32 [%rd2], 1;", 1, 1);
    caught(FaultKind::Uninitialised, &format!("{SHARED} st.shared.u8 [%r20], 1; ld.shared.u16 %r4, [%r20];"), 1, 1);
    silent(&format!("{SHARED} st.shared.u8 [%r20], 1; st.shared.u8 [%r20+1], 1; ld.shared.u16 %r4, [%r20];"), 1, 1);
}

#[test]
fn shared_races() {
    let exchange = |barrier| {
        format!(
            "{SHARED} st.shared.u32 [%r21], %r0; {barrier} xor.b32 %r22, %r21, 128; ld.shared.u32 %r4, [%r22]; {OUT}"
        )
    };
    let f = {
        // Before its partner has written, a warp reads what nobody wrote: either report is right.
        let faults: Vec<Box<Fault>> = (0..6).map(|s| go(s, &exchange(""), 1, 64).unwrap_err()).collect();
        assert!(faults.iter().all(|f| matches!(f.kind, FaultKind::SharedRace | FaultKind::Uninitialised)));
        faults.into_iter().find(|f| f.kind == FaultKind::SharedRace)
    };
    assert!(f.is_some_and(|f| f.what.contains("with no barrier between")));
    silent(&exchange("bar.sync 0;"), 1, 64);
    // Reading, then overwriting: the second barrier is missing.
    let reuse = |barrier| {
        format!(
            "{SHARED} st.shared.u32 [%r21], %r0; bar.sync 0; xor.b32 %r22, %r21, 128; ld.shared.u32 %r4, [%r22]; {barrier}
             st.shared.u32 [%r21], 5; {OUT}"
        )
    };
    caught(FaultKind::SharedRace, &reuse(""), 1, 64);
    silent(&reuse("bar.sync 0;"), 1, 64);
    // Neighbouring bytes of one word are not a race; the same byte is.
    let bytes = |shift| {
        format!(
            "{SHARED} shr.u32 %r5, %r0, {shift}; add.u32 %r6, %r20, %r5; setp.eq.u32 %p1, %r0, 31; setp.eq.or.u32 %p1, %r0, 32, %p1; @%p1 st.shared.u8 [%r6], %r0;"
        )
    };
    silent(&bytes(0), 1, 64);
    caught(FaultKind::SharedRace, &bytes(6), 1, 64);
    // One instruction, one place, different values; equal values are fine.
    caught(FaultKind::SharedRace, &format!("{SHARED} st.shared.u32 [%r20], %r0;"), 1, 32);
    silent(&format!("{SHARED} st.shared.u32 [%r20], 3;"), 1, 32);
    // Atomics among themselves are fine, with plain reads they are not.
    let count = |barrier| {
        format!(
            "{SHARED} setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [%r20], 0; bar.sync 0; red.shared.add.u32 [%r20], 1; {barrier} ld.shared.u32 %r4, [%r20];"
        )
    };
    caught(FaultKind::SharedRace, &count(""), 1, 64);
    silent(&count("bar.sync 0;"), 1, 64);
}

#[test]
fn blocks_that_meet() {
    let index = "mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mad.lo.u32 %r3, %r1, %r2, %r0; mul.wide.u32 %rd8, %r3, 4; add.s64 %rd9, %rd0, %rd8;";
    silent(&format!("{index} st.global.u32 [%rd9], %r3; ld.global.u32 %r4, [%rd9];"), 4, 32);
    let f = caught(FaultKind::BlockRace, "st.global.u32 [%rd0], 1;", 4, 1);
    assert!(f.what.contains("the block writes what block ("), "{f}");
    caught(
        FaultKind::BlockRace,
        &format!("{index} ld.global.u32 %r4, [%rd1]; setp.eq.u32 %p1, %r1, 2; @%p1 st.global.u32 [%rd1], 9;"),
        4,
        1,
    );
    silent(&format!("{index} red.global.add.u32 [%rd1], %r3; ld.global.u32 %r4, [%rd1+4];"), 4, 32);
    // Halves of one word by different blocks are fine.
    silent(
        "mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd8, %r1, 2; add.s64 %rd9, %rd0, %rd8; st.global.u16 [%rd9], 1; ld.global.u16 %r4, [%rd9];",
        8,
        1,
    );
}

#[test]
fn absent_lanes() {
    let half = "setp.lt.u32 %p1, %r0, 16; @!%p1 bra SKIP;";
    let f = caught(
        FaultKind::AbsentLanes,
        &format!("mov.u32 %r4, 0; {half} shfl.sync.bfly.b32 %r4, %r0, 1, 31, -1; SKIP: {OUT}"),
        1,
        32,
    );
    assert!(f.what.contains("0xffff0000"), "{f}");
    silent(&format!("mov.u32 %r4, 0; {half} shfl.sync.bfly.b32 %r4, %r0, 1, 31, 0xffff; SKIP: {OUT}"), 1, 32);
    caught(FaultKind::AbsentLanes, "vote.sync.ballot.b32 %r4, %p1, 0xffff;", 1, 32);
    caught(FaultKind::AbsentLanes, &format!("{half} bar.warp.sync -1; SKIP:"), 1, 32);
    caught(
        FaultKind::AbsentLanes,
        &format!(
            "{SHARED} st.shared.u32 [%r21], 1; {half} ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r4}}, [%r20]; SKIP:"
        ),
        1,
        32,
    );
    // A partial last warp cannot vote with a full mask.
    caught(FaultKind::AbsentLanes, "vote.sync.any.pred %p1, %p2, -1;", 1, 40);
}

#[test]
fn barrier_divergence() {
    caught(FaultKind::BarrierDivergence, "setp.lt.u32 %p1, %r0, 16; @!%p1 bra SKIP; bar.sync 0; SKIP:", 1, 64);
    // A whole warp goes another way, or leaves before.
    caught(FaultKind::BarrierDivergence, "setp.lt.u32 %p1, %r0, 32; @!%p1 bra SKIP; bar.sync 0; SKIP:", 1, 64);
    caught(FaultKind::BarrierDivergence, "setp.gt.u32 %p1, %r0, 40; @%p1 ret; bar.sync 0;", 1, 64);
    silent("bar.sync 0; setp.gt.u32 %p1, %r0, 40; @%p1 ret; mov.u32 %r4, 1;", 1, 64);
    silent("setp.lt.u32 %p1, %r0, 32; @!%p1 bra SKIP; bar.sync 1, 32; SKIP:", 1, 64);
}

#[test]
fn asynchronous_copies() {
    let copy = "shl.b32 %r22, %r0, 4; add.u32 %r22, %r22, %r20; mul.wide.u32 %rd9, %r0, 16; add.s64 %rd9, %rd9, %rd1;
        cp.async.cg.shared.global [%r22], [%rd9], 16; cp.async.commit_group;";
    let text = |wait: &str, barrier: &str, at: u32| {
        format!(
            "{SHARED} {copy} {wait} {barrier} xor.b32 %r23, %r22, {at}; ld.shared.u32 %r4, [%r23]; cp.async.wait_all; {OUT}"
        )
    };
    // Read before the wait; wait for the wrong group; no barrier towards another warp.
    caught(FaultKind::AsyncPending, &text("", "", 0), 1, 32);
    caught(FaultKind::AsyncPending, &text("cp.async.wait_group 1;", "", 0), 1, 32);
    silent(&text("cp.async.wait_group 0;", "", 0), 1, 32);
    let faults: Vec<Box<Fault>> =
        (0..6).map(|s| go(s, &text("cp.async.wait_group 0;", "", 512), 1, 64).unwrap_err()).collect();
    assert!(faults.iter().all(|f| matches!(f.kind, FaultKind::OutOfBounds)));
    let across = |barrier: &str| {
        format!(
            ".shared .align 16 .b8 s[1024]; mov.u32 %r20, s; {copy} cp.async.wait_group 0; {barrier} xor.b32 %r23, %r22, 512; ld.shared.u32 %r4, [%r23]; {OUT}"
        )
    };
    let faults: Vec<Box<Fault>> = (0..30).map(|s| go(s, &across(""), 1, 64).unwrap_err()).collect();
    assert!(
        faults
            .iter()
            .all(|f| matches!(f.kind, FaultKind::SharedRace | FaultKind::Uninitialised | FaultKind::AsyncPending))
    );
    assert!(faults.iter().any(|f| f.kind == FaultKind::SharedRace));
    silent(&across("bar.sync 0;"), 1, 64);
    // Writing into a destination in flight, and leaving with one.
    caught(FaultKind::AsyncPending, &format!("{SHARED} {copy} st.shared.u32 [%r22], 1; cp.async.wait_all;"), 1, 32);
    caught(FaultKind::AsyncAtExit, &format!("{SHARED} {copy}"), 1, 32);
    silent(&format!("{SHARED} {copy} cp.async.wait_all;"), 1, 32);
    // Committed late: wait_group does not cover an open group.
    caught(
        FaultKind::AsyncAtExit,
        &format!("{SHARED} cp.async.ca.shared.global [%r21], [%rd1], 4; cp.async.wait_group 0;"),
        1,
        32,
    );
    // A skipped source (size 0) may point anywhere, and gives zeros.
    silent(
        &format!(
            "{SHARED} mov.u64 %rd9, 0; cp.async.cg.shared.global [%r20], [%rd9], 16, 0; cp.async.wait_all; ld.shared.u32 %r4, [%r20]; {OUT}"
        ),
        1,
        1,
    );
}

#[test]
fn no_progress_and_traps() {
    let mut vm = Vm::new(Config { budget: 10_000, ..Config::default() });
    let lock = vm.alloc(4).unwrap();
    vm.fill(lock, 0, 4).unwrap();
    // A spin lock within one warp.
    let body = "SPIN: atom.global.cas.b32 %r1, [%rd0], 0, 1; setp.ne.u32 %p1, %r1, 0; @%p1 bra SPIN; st.volatile.global.u32 [%rd0], 0;";
    assert_eq!(run(&mut vm, body, 1, 32, [lock, 0, 0, 0]).unwrap_err().kind, FaultKind::NoProgress);
    vm.fill(lock, 0, 4).unwrap();
    assert!(run(&mut vm, body, 1, 1, [lock, 0, 0, 0]).is_ok());
    // Two warps at two barriers.
    caught(FaultKind::NoProgress, "setp.lt.u32 %p1, %r0, 32; @%p1 bra A; bar.sync 1; bra B; A: bar.sync 2; B:", 1, 64);
    caught(FaultKind::Trap, "setp.eq.u32 %p1, %r0, 5; @%p1 trap;", 1, 32);
}

#[test]
fn detectors_can_be_switched_off() {
    for body in [
        "ld.global.u32 %r4, [%rd1-4]; st.global.u32 [%rd1+2048], 1;",
        "ld.global.u32 %r4, [%rd1+2]; st.global.u32 [%rd1+6], %r4;",
        "ld.global.u32 %r4, [%rd2];",
        "st.global.u32 [%rd0], %r0;",
        "setp.lt.u32 %p1, %r0, 16; @!%p1 bra SKIP; shfl.sync.bfly.b32 %r4, %r0, 1, 31, -1; SKIP:",
        "setp.lt.u32 %p1, %r0, 32; @!%p1 bra SKIP; bar.sync 0; SKIP:",
        ".shared .align 16 .b8 s[16]; mov.u32 %r20, s; st.shared.u32 [%r20], %r0; cp.async.ca.shared.global [%r20+4], [%rd1], 4; ld.shared.u32 %r4, [%r20+64];",
    ] {
        let mut vm = Vm::new(Config { detect: Detect::NONE, ..Config::default() });
        let p: Vec<u64> = (0..3).map(|_| vm.alloc(1024).unwrap()).collect();
        run(&mut vm, body, 3, 64, [p[0], p[1], p[2], 0]).unwrap_or_else(|f| panic!("{body}: {f}"));
    }
}

#[test]
fn faults_name_the_cuda_line() {
    let text = ".version 8.0 .target sm_80 .address_size 64
        .visible .entry k(.param .u64 p) { .reg .b64 %rd<2>; .reg .b32 %r<2>;
        .loc 1 10 3
        ld.param.u64 %rd1, [p];
        .loc 2 33 1, function_name $L__info_string0, inlined_at 1 12 5
        ld.global.u32 %r1, [%rd1];
        .loc 1 13 1
        ret; }
        .file 1 \"kernels/k.cu\"
        .file 2 \"kernels/common.cuh\"";
    let module = Module::parse(text).unwrap();
    let fault = machine(0).launch(&module, "k", 1, 1, 0, Args::new().u64(64).bytes()).unwrap_err();
    let source = fault.source.clone().unwrap();
    assert_eq!((source.file.as_str(), source.line), ("kernels/common.cuh", 33));
    assert_eq!(source.inlined_at, Some(("kernels/k.cu".to_string(), 12)));
    assert_eq!((fault.line, fault.address), (6, Some(64)));
    assert!(fault.to_string().contains("kernels/common.cuh:33 (inlined at kernels/k.cu:12)"));
}
