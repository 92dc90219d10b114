//! loss.cu. Tolerances: the gradient is rounded to bf16 once; log-probabilities are f32, their error that of a sum of V
//! exponentials in f32 over threads (a few 1e-7 relative) and of logits of size up to 30.

use crate::{
    harness::{Cpu, Gpu, Noise, SEEDS, assert_bits, assert_near},
    launches::{Traffic, U, assert_no_conflicts, assert_traffic, run},
};
#[allow(unused_imports)]
use irori::backend::calls::Calls as _;
use irori::backend::{Backend, DType, cuda::rows as launches};

/// (rows, vocabulary): ragged, and one row of Qwen3's.
const SHAPES: [(usize, usize); 6] = [(1, 8), (17, 1000), (128, 72), (300, 264), (1000, 40), (1, 151_936)];

/// Logits with a few that dominate, as a trained model's.
fn logits(rows: usize, vocab: usize) -> Vec<f32> {
    let mut noise = Noise::new(vocab as u64);
    let mut x = noise.normal(rows * vocab, 3.0);
    for row in x.chunks_exact_mut(vocab) {
        row[noise.below(vocab as u32) as usize] = 20.0;
    }
    x
}

#[test]
fn cross_entropy_in_place() {
    for (rows, vocab) in SHAPES {
        let x = logits(rows, vocab);
        let mut noise = Noise::new(rows as u64);
        let targets: Vec<u32> = (0..rows).map(|_| noise.below(vocab as u32)).collect();
        let scale = 1.0 / 37.0;
        let mut cpu = Cpu::new();
        let (cx, ct, closs) = (cpu.f32(&x), cpu.u32(&targets), cpu.f32(&[1.5]));
        cpu.start(rows * 4 + 256);
        cpu.be.cross_entropy(cx, vocab, ct, scale, closs).unwrap();
        let (want, want_loss) = (cpu.get(cx), cpu.get(closs));
        let mut first = None;
        for seed in SEEDS {
            let Some(mut gpu) = Gpu::new("loss", seed) else { return };
            let (gx, gt, gloss) = (gpu.bf16(&x), gpu.u32(&targets), gpu.f32(&[1.5]));
            let nll = gpu.fresh(rows * 4);
            let [c, _] = launches::cross_entropy(rows, vocab, gx, gt, scale, nll, gloss).map(|l| run(&mut gpu, &l));
            let got = [gpu.get_bf16(gx, want.len()), gpu.get_f32(gloss, 1)];
            // p − 1 of the target: relative to its terms.
            assert_near("dlogits", &got[0], &want, 1.02 * U, |_| scale * 4e-6);
            assert_near("loss", &got[1], &want_loss, 2e-6, |_| 1e-6);
            let first = first.get_or_insert(got.clone());
            assert_bits("dlogits under another schedule", &got[0], &first[0]);
            assert_bits("loss under another schedule", &got[1], &first[1]);
            if vocab > 100_000 {
                let row = rows * vocab * 2;
                assert_traffic("cross_entropy", &c, Traffic { loads: 2 * row, stores: row });
                assert_no_conflicts("cross_entropy", &c);
            }
        }
    }
}

#[test]
fn log_probabilities_and_the_largest() {
    for (rows, vocab) in SHAPES {
        let x = logits(rows, vocab);
        let mut noise = Noise::new(rows as u64);
        let c = 4;
        let ids: Vec<u32> = (0..rows * c).map(|_| noise.below(vocab as u32)).collect();
        let mut cpu = Cpu::new();
        let (cx, cids) = (cpu.f32(&x), cpu.u32(&ids));
        let (cout, cmost) = (cpu.out(DType::F32, rows * c), cpu.out(DType::U32, rows));
        cpu.start(0);
        cpu.be.log_softmax_at(cx, vocab, cids, c, cout).unwrap();
        cpu.be.argmax(cx, vocab, cmost).unwrap();
        let want = cpu.get(cout);
        let want_most: Vec<u32> = bytemuck::pod_collect_to_vec(&cpu.be.read(cmost).unwrap());
        let mut first = None;
        for seed in SEEDS {
            let Some(mut gpu) = Gpu::new("loss", seed) else { return };
            let (gx, gids) = (gpu.bf16(&x), gpu.u32(&ids));
            let (out, most) = (gpu.fresh(rows * c * 4), gpu.fresh(rows * 4));
            let softmax = run(&mut gpu, &launches::log_softmax_at(rows, vocab, gx, gids, c, out));
            let largest = run(&mut gpu, &launches::argmax(rows, vocab, gx, most));
            let got = gpu.get_f32(out, want.len());
            assert_near("log softmax", &got, &want, 1e-6, |_| 4e-6);
            assert_bits("log softmax under another schedule", &got, first.get_or_insert(got.clone()));
            assert_eq!(gpu.get_u32(most, rows), want_most);
            if vocab > 100_000 {
                let row = rows * vocab * 2;
                assert_traffic("log_softmax_at", &softmax, Traffic { loads: row, stores: rows * c * 32 });
                assert_traffic("argmax", &largest, Traffic { loads: row, stores: rows * 32 });
            }
        }
    }
}

/// Equal logits, in one thread's vector, in one warp, in different warps: the lowest column wins.
#[test]
fn argmax_takes_the_lowest_of_equals() {
    let vocab = 16_384;
    for columns in [&[3usize, 5][..], &[9, 200], &[16_383, 8192], &[0, 16_383], &[7000, 8191, 12_000]] {
        let mut x = vec![-1.0; vocab];
        columns.iter().for_each(|&c| x[c] = 2.5);
        let Some(mut gpu) = Gpu::new("loss", 0) else { return };
        let (gx, out) = (gpu.bf16(&x), gpu.fresh(4));
        run(&mut gpu, &launches::argmax(1, vocab, gx, out));
        assert_eq!(gpu.get_u32(out, 1)[0] as usize, *columns.iter().min().unwrap());
    }
}
