//! The structures that kernels take by value lie as the kernels' files say: each `OFFSET` and `SIZE` there is compared with
//! the structure here.

use super::{
    attention::{AttentionArgs, AttentionBackwardArgs, HeadsArgs},
    cache::{AttentionCachedArgs, CacheArgs},
    dropout::DropoutArgs,
    linear::{LinearArgs, PartArgs},
    lora::{LoraArgs, LoraPartArgs},
};
use crate::backend::ops::AdamWFactors;
use bytemuck::Zeroable;
use std::{collections::BTreeSet, fs, mem::offset_of, path::Path};

/// The lines that stand in `kernels/`, made from the structure here: its file, its name there, all of its fields. Without
/// one of them this does not compile.
macro_rules! layout {
    ($file:literal, $kernel:literal, $args:ident { $($field:ident),* $(; $padding:ident)? }) => {{
        let $args { $($field: _,)* $($padding: _)? } = $args::zeroed();
        let mut lines = vec![$(format!("OFFSET({}, {}, {});", $kernel, stringify!($field), offset_of!($args, $field))),*];
        lines.push(format!("SIZE({}, {});", $kernel, size_of::<$args>()));
        ($file, lines)
    }};
}

fn layouts() -> Vec<(&'static str, Vec<String>)> {
    vec![
        layout!("philox.cuh", "Dropout", DropoutArgs { key0, key1, layer, threshold, scale }),
        layout!("attention.cuh", "Heads", HeadsArgs { q, kv }),
        layout!("attention.cu", "Attention", AttentionArgs { qk, qkv, cu_seqlens, o, lse, heads }),
        layout!(
            "attention_backward.cu",
            "AttentionBackward",
            AttentionBackwardArgs { qk, qkv, d_o, stats, cu_seqlens, dqk, dqkv, heads, rows; unused }
        ),
        layout!("cache.cu", "Cache", CacheArgs { k, v, capacity; unused }),
        layout!(
            "cache.cu",
            "AttentionCached",
            AttentionCachedArgs { qk, positions, slots, partial, stats, o, cache, heads }
        ),
        layout!("linear.cuh", "Part", PartArgs { left, right, start, end, rank, module, scale; unused }),
        layout!(
            "linear.cuh",
            "Linear",
            LinearArgs {
                x,
                w,
                absmax,
                add,
                out,
                samples,
                positions,
                rows,
                columns,
                depth,
                group,
                first,
                drop,
                parts,
                part; unused
            }
        ),
        layout!(
            "lora.cu",
            "LoraPart",
            LoraPartArgs { narrow, wide, partial, column, depth, rank, module, scale; unused }
        ),
        layout!(
            "lora.cu",
            "Lora",
            LoraArgs { x, samples, positions, rows, pitch, split, drop, parts, part; unused }
        ),
        layout!(
            "optim.cu",
            "AdamW",
            AdamWFactors { one_minus_beta1, beta2, one_minus_beta2, eps, keep, step_size, correction2, max_norm }
        ),
    ]
}

/// (file, line) of every assertion in `kernels/`.
fn asserted() -> BTreeSet<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let files = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let sources = files.filter(|p| p.extension().is_some_and(|e| e == "cu" || e == "cuh"));
    sources
        .flat_map(|path| {
            let (name, text) =
                (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap());
            let is_one = |l: &&str| l.starts_with("OFFSET(") || l.starts_with("SIZE(");
            text.lines().filter(is_one).map(|l| (name.clone(), l.to_owned())).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn structures_lie_as_the_kernels_say() {
    let here: BTreeSet<(String, String)> =
        layouts().into_iter().flat_map(|(file, lines)| lines.into_iter().map(|l| (file.to_owned(), l))).collect();
    let there = asserted();
    let missing: Vec<_> = here.difference(&there).collect();
    let unknown: Vec<_> = there.difference(&here).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "here only: {missing:?}\nin kernels/ only: {unknown:?}");
    assert_eq!(there.iter().filter(|(_, l)| l.starts_with("SIZE(")).count(), 11);
}
