//! What the parser takes and what it refuses, always with the line.

use crate::common::wrap;
use ptxvm::Module;

fn refused(body: &str) -> String {
    Module::parse(&wrap(body)).unwrap_err().to_string()
}

#[test]
fn unknown_things_are_errors_with_their_line() {
    for (body, what) in [
        ("frobnicate.u32 %r1, %r2;", "unknown or unsupported instruction: frobnicate.u32 %r1, %r2"),
        ("add.f32 %f1, %f2, %nosuch;", "%nosuch"),
        ("add.f32 %f1, %f2;", "3 operands expected"),
        ("add.u32 %r1, %rd1, %r2;", "64-bit register"),
        ("bra NOWHERE;", "unknown label NOWHERE"),
        ("ld.global.u32 %r1, [nosuch];", "unknown name nosuch"),
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1,%f2,%f3}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f1,%f2,%f3,%f4};",
            "4 registers expected in operand 1",
        ),
        ("wgmma.fence.sync.aligned;", "unsupported"),
        ("add.rz.f64 %fd1, %fd2, %fd3;", ".rn only"),
        ("cvt.rn.foo.f32 %r1, %f1;", "conversion"),
        ("call.uni (%r1), helper, (%r2);", "inline the function"),
        ("@%r1 bra X; X:", "a predicate is expected"),
        ("ld.shared.v4.f64 {%fd1, %fd2, %fd3}, [%r1];", "4 registers expected"),
    ] {
        let e = refused(body);
        assert!(e.starts_with("PTX line 8") && e.contains(what), "{body}: {e}");
    }
}

#[test]
fn broken_texts_do_not_panic() {
    let good = wrap(
        ".shared .align 4 .b8 s[16]; add.u32 %r1, %r2, 0x10; @%p1 bra L; L: st.shared.v2.f32 [s+4], {%f1, 0f00000000};",
    );
    assert!(Module::parse(&good).is_ok());
    for cut in 0..good.len() {
        let _ = Module::parse(&good[..cut]);
        let mut other = good.clone().into_bytes();
        other[cut] = b";{}[]<>,.%!-0"[cut % 13];
        let _ = Module::parse(&String::from_utf8(other).unwrap());
    }
    let real = include_str!("../kernels/rows.ptx");
    for i in 0..200 {
        let mut other = real.as_bytes().to_vec();
        let at = i * 7919 % other.len();
        other[at] = b";{}[]<>,.%!-09a\n"[i % 16];
        let _ = Module::parse(&String::from_utf8(other).unwrap());
    }
    assert!(Module::parse(".global .align 4611686018427387904 .u32 x;").is_err());
    assert!(Module::parse(&format!(".global .u32 x = {};", "{".repeat(100_000))).is_err());
    assert!(Module::parse(&wrap(&format!("mov.b32 %r1, {};", "{".repeat(100_000)))).is_err());
}

#[test]
fn scopes_shadow_registers_and_labels() {
    // What inline assembly does: registers and labels of its own in braces.
    let module = Module::parse(&wrap(
        "{ .reg .pred %p1; .reg .b16 low, high; mov.b32 {low, high}, %r1; setp.eq.u16 %p1, low, 0; @%p1 bra DONE; add.u32 %r1, %r1, 1; DONE: }
         { .reg .b64 low; mov.u64 low, 3; bra DONE; DONE: add.u64 %rd9, %rd9, low; }",
    ));
    module.unwrap();
}

#[test]
fn directives_are_understood() {
    let text = "//\n// Generated\n//\n.version 9.0\n.target sm_80, debug\n.address_size 64\n
        .extern .func (.param .b32 func_retval0) vprintf (.param .b64 a, .param .b64 b);
        .visible .func helper() { ret; }
        .global .align 1 .b8 $str[5] = {120, 32, 37, 100};
        .visible .entry _Z1kPf(.param .u64 .ptr .global .align 16 _Z1kPf_param_0) .maxntid 256, 1, 1 .reqntid 256 { .pragma \"nounroll\"; ret; }
        .entry none() { ret; }
        .section .debug_str { info: .b8 95, 90, 0 }";
    let module = Module::parse(text).unwrap();
    assert_eq!((module.version(), module.target()), ("9.0", "sm_80"));
    assert_eq!(module.kernels().collect::<Vec<_>>(), ["_Z1kPf", "none"]);
    assert!(Module::parse(".version 8.0\n.bogus x;").unwrap_err().to_string().starts_with("PTX line 2"));
}
