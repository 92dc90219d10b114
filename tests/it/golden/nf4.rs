//! Bytes, scales and dequantised values equal bitsandbytes' bit for bit.

use super::{Tensors, assert_same, json};
use half::bf16;
use irori::{
    digest::sha256,
    quant::{
        nested::{self, Search},
        nf4,
        state::QuantState,
    },
    tensor::Floats,
};

/// A tensor that bitsandbytes quantised.
struct Case {
    name: &'static str,
    bf16: bool,
    /// Elements as in a file.
    source: Vec<u8>,
}

impl Case {
    fn floats(&self) -> Floats<'_> {
        if self.bf16 { Floats::Bf16(&self.source) } else { Floats::F32(&self.source) }
    }

    /// (packed, absmax) as irori makes them.
    fn quantized(&self) -> (Vec<u8>, Vec<f32>) {
        let len = self.floats().len();
        let (mut packed, mut absmax) = (vec![0; len / 2], vec![0.0; len / nf4::BLOCK]);
        nf4::quantize(self.floats(), &mut packed, &mut absmax);
        (packed, absmax)
    }
}

/// The generator described in `make_goldens.py`.
fn generated(seed: u64, len: usize) -> impl Iterator<Item = f32> {
    let mut state = seed;
    (0..len).map(move |i| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = ((state >> 40) as i64 - (1 << 23)) as f32 / (1 << 23) as f32;
        let scale = (37 * (i / nf4::BLOCK) % 101 + 1) as f32 / 101.0;
        x * x * x * scale
    })
}

fn cases(golden: &Tensors) -> Vec<Case> {
    let record = json("nf4.json");
    let len = |name: &str| super::ids(&record["tensors"][name]["shape"]).iter().product::<u32>() as usize;
    let cases = vec![
        Case { name: "awkward_f32", bf16: false, source: golden.bytes("awkward_f32.source") },
        Case { name: "awkward_bf16", bf16: true, source: golden.bytes("awkward_bf16.source") },
        Case {
            name: "generated_f32",
            bf16: false,
            source: generated(1, len("generated_f32")).flat_map(f32::to_le_bytes).collect(),
        },
        Case {
            name: "generated_bf16",
            bf16: true,
            source: generated(2, len("generated_bf16")).flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
        },
    ];
    for case in &cases {
        let expected = &record["tensors"][case.name]["sha256_source"];
        assert_eq!(sha256(&case.source), *expected, "{}: the generator is not the script's", case.name);
    }
    cases
}

fn bytes(values: &[f32]) -> &[u8] {
    bytemuck::cast_slice(values)
}

/// Compares dequantised values with the recorded digests, and with the values where they are recorded.
fn check_dequantized(golden: &Tensors, case: &Case, label: &str, packed: &[u8], absmax: &[f32]) {
    let digests = &json("nf4.json")["tensors"][case.name]["sha256"];
    let small = packed.len() <= 1024;
    let mut exact = vec![0.0; packed.len() * 2];
    nf4::dequantize(packed, absmax, false, &mut exact);
    if small {
        let name = format!("{}.{label}.f32", case.name);
        assert_same(&name, bytes(&exact), &golden.bytes(&name));
    }
    assert_eq!(sha256(bytes(&exact)), digests[format!("{label}.f32")], "{}.{label}.f32", case.name);

    let mut rounded = vec![bf16::ZERO; exact.len()];
    nf4::dequantize_to_bf16(packed, absmax, &mut rounded);
    let found: &[u8] = bytemuck::cast_slice(&rounded);
    if small {
        let name = format!("{}.{label}.bf16", case.name);
        assert_same(&name, found, &golden.bytes(&name));
    }
    assert_eq!(sha256(found), digests[format!("{label}.bf16")], "{}.{label}.bf16", case.name);

    let mut widened = vec![0.0; exact.len()];
    nf4::dequantize(packed, absmax, true, &mut widened);
    assert!(
        widened.iter().zip(&rounded).all(|(w, r)| w.to_bits() == r.to_f32().to_bits()),
        "{}: two roundings",
        case.name
    );
}

#[test]
fn codebook_is_equal() {
    assert_same("nf4_map", bytes(&nf4::CODE), &Tensors::open("nf4.safetensors").bytes("nf4_map"));
}

#[test]
fn quantized_bytes_and_scales_are_equal() {
    let golden = Tensors::open("nf4.safetensors");
    for case in cases(&golden) {
        let (packed, absmax) = case.quantized();
        assert_same(case.name, &packed, &golden.bytes(&format!("{}.packed", case.name)));
        assert_same(case.name, bytes(&absmax), &golden.bytes(&format!("{}.absmax", case.name)));
        check_dequantized(&golden, &case, "dequantised", &packed, &absmax);
    }
}

#[test]
fn double_quantized_bytes_are_equal() {
    let golden = Tensors::open("nf4.safetensors");
    let map = nested::dynamic_map();
    assert_same("dynamic_map", bytes(&map), &golden.bytes("dynamic_map"));
    assert_eq!(sha256(bytes(&map)), json("nf4.json")["dynamic_map_sha256"]);
    for case in cases(&golden) {
        let name = |part: &str| format!("{}.double.{part}", case.name);
        let (packed, absmax) = case.quantized();
        let offset = golden.f32(&name("offset"))[0];
        let kernel = nested::encode_with(&absmax, offset, Search::Table);
        assert_same(&name("cpu_kernel_absmax"), &kernel.codes, &golden.bytes(&name("cpu_kernel_absmax")));
        let found = nested::encode_with(&absmax, offset, Search::Nearest);
        assert_same(&name("absmax"), &found.codes, &golden.bytes(&name("absmax")));
        assert_same(&name("nested_absmax"), bytes(&found.absmax), &golden.bytes(&name("nested_absmax")));
        let decoded = nested::decode(&found, &map);
        assert_same(&name("decoded"), bytes(&decoded), &golden.bytes(&name("decoded")));
        check_dequantized(&golden, &case, "double.dequantised", &packed, &decoded);

        // torch adds the absmax values up in f32, in an order that depends on the machine: its mean is one of the
        // numbers around the true one.
        let mean = nested::mean(&absmax);
        assert!((mean - offset).abs() <= 2.0 * f32::EPSILON * offset, "{}: {mean} and {offset}", case.name);
    }
}

#[test]
fn checkpoint_bytes_are_what_irori_makes_of_the_dense_weights() {
    for model in ["tied", "untied"] {
        let shards: Vec<Tensors> = match model {
            "tied" => vec![Tensors::open("models/tied/model.safetensors")],
            _ => [1, 2].map(|i| Tensors::open(&format!("models/untied/model-0000{i}-of-00002.safetensors"))).into(),
        };
        let checkpoint = Tensors::open(&format!("models/{model}-nf4/model.safetensors"));
        let mut missed = 0; // codes that are not the nearest
        for (shard, name) in shards.iter().flat_map(|s| s.names().into_iter().map(move |n| (s, n))) {
            if !name.contains("_proj") {
                assert_same(&name, &checkpoint.bytes(&name), &shard.bytes(&name));
                continue;
            }
            let source = shard.bytes(&name);
            let len = source.len() / 2;
            let (mut packed, mut absmax) = (vec![0; len / 2], vec![0.0; len / nf4::BLOCK]);
            nf4::quantize(Floats::Bf16(&source), &mut packed, &mut absmax);
            assert_same(&name, &packed, &checkpoint.bytes(&name));
            assert_same(&name, bytes(&nf4::CODE), &checkpoint.bytes(&format!("{name}.quant_map")));
            let record = checkpoint.bytes(&format!("{name}.quant_state.bitsandbytes__nf4"));
            let state = QuantState::parse(&record).expect("record");
            let shape: Vec<usize> = shard.shape(&name);
            assert_eq!(QuantState::nf4("bfloat16", &shape, state.nested_offset.map(|x| x as f32)), state, "{name}");
            match state.nested_offset {
                None => assert_same(&name, bytes(&absmax), &checkpoint.bytes(&format!("{name}.absmax"))),
                Some(offset) => {
                    // Saved on a CPU.
                    let found = nested::encode_with(&absmax, offset as f32, Search::Table);
                    assert_same(&name, &found.codes, &checkpoint.bytes(&format!("{name}.absmax")));
                    let plain = nested::encode_with(&absmax, offset as f32, Search::Nearest);
                    missed += found.codes.iter().zip(&plain.codes).filter(|(a, b)| a != b).count();
                    assert_same(&name, bytes(&found.absmax), &checkpoint.bytes(&format!("{name}.nested_absmax")));
                    let map = bytes(&nested::dynamic_map()).to_vec();
                    assert_same(&name, &map, &checkpoint.bytes(&format!("{name}.nested_quant_map")));
                }
            }
        }
        assert_eq!(missed, if model == "untied" { 3 } else { 0 });
    }
}

#[test]
fn both_searches_are_those_of_bitsandbytes() {
    let golden = Tensors::open("nf4.safetensors");
    let many: Vec<f32> = generated(3, 16_500).map(|x| x.abs() + 0.05).collect();
    for (name, absmax) in [("scales", many), ("equal_scales", vec![0.5; 300])] {
        let part = |part: &str| golden.bytes(&format!("{name}.{part}"));
        let offset = golden.f32(&format!("{name}.offset"))[0];
        for (search, codes) in [(Search::Nearest, "absmax"), (Search::Table, "cpu_kernel_absmax")] {
            let found = nested::encode_with(&absmax, offset, search);
            assert_same(name, bytes(&found.absmax), &part("nested_absmax"));
            // Where the scale is 0 any code means the offset, and bitsandbytes' plain implementation takes another
            // one than its kernels.
            if search == Search::Table || name == "scales" {
                assert_same(&format!("{name} {search:?}"), &found.codes, &part(codes));
            }
        }
        assert!(name != "scales" || part("absmax") != part("cpu_kernel_absmax"));
    }
}
