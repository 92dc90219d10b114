//! loss.cu. Tolerances: the gradient is rounded to bf16 once; log-probabilities are f32, their error that of a sum of V
//! exponentials in f32 over threads (a few 1e-7 relative) and of logits of size up to 30.

use crate::harness::{
    Cpu, Device, Gpu, Noise, Run, Traffic, U, assert_near, assert_no_conflicts, assert_traffic, on_gpu,
};
use irori::backend::{
    DType,
    ops::{Argmax, CrossEntropy, LogSoftmaxAt},
};

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
    const SCALE: f32 = 1.0 / 37.0;
    fn dlogits_and_loss<D: Device>(d: &mut D, vocab: usize, x: &[f32], targets: &[u32]) -> Run<2> {
        let (logits, targets, loss) = (d.act(x), d.u32(targets), d.f32(&[1.5]));
        let costs = d.run(CrossEntropy { logits, vocab, targets, grad_scale: SCALE, loss });
        Run { results: [d.get(logits), d.get(loss)], costs }
    }
    for (rows, vocab) in SHAPES {
        let x = logits(rows, vocab);
        let mut noise = Noise::new(rows as u64);
        let targets: Vec<u32> = (0..rows).map(|_| noise.below(vocab as u32)).collect();
        let got = on_gpu(|gpu| dlogits_and_loss(gpu, vocab, &x, &targets));
        let Some(Run { results: [dlogits, loss], costs }) = got else { return };
        let want = dlogits_and_loss(&mut Cpu::new(), vocab, &x, &targets).results;
        // p − 1 of the target: relative to its terms.
        assert_near("dlogits", &dlogits, &want[0], 1.02 * U, |_| SCALE * 4e-6);
        assert_near("loss", &loss, &want[1], 2e-6, |_| 1e-6);
        if vocab > 100_000 {
            let row = rows * vocab * 2;
            assert_traffic("cross_entropy", &costs[0], Traffic { loads: 2 * row, stores: row });
            assert_no_conflicts("cross_entropy", &costs[0]);
        }
    }
}

/// Columns that are small enough to be f32 numbers.
fn as_f32(x: Vec<u32>) -> Vec<f32> {
    x.into_iter().map(|x| x as f32).collect()
}

#[test]
fn log_probabilities_and_the_largest() {
    fn at_and_most<D: Device>(d: &mut D, vocab: usize, x: &[f32], ids: &[u32], c: usize) -> Run<2> {
        let (logits, out) = (d.act(x), d.out(DType::F32, ids.len()));
        let (ids, most) = (d.u32(ids), d.out(DType::U32, ids.len() / c));
        let mut costs = d.run(LogSoftmaxAt { logits, vocab, ids, c, out });
        costs.extend(d.run(Argmax { logits, vocab, out: most }));
        Run { results: [d.get(out), as_f32(d.get_u32(most))], costs }
    }
    for (rows, vocab) in SHAPES {
        let (x, c) = (logits(rows, vocab), 4);
        let mut noise = Noise::new(rows as u64);
        let ids: Vec<u32> = (0..rows * c).map(|_| noise.below(vocab as u32)).collect();
        let got = on_gpu(|gpu| at_and_most(gpu, vocab, &x, &ids, c));
        let Some(Run { results: [out, most], costs }) = got else { return };
        let want = at_and_most(&mut Cpu::new(), vocab, &x, &ids, c).results;
        assert_near("log softmax", &out, &want[0], 1e-6, |_| 4e-6);
        assert_eq!(most, want[1]);
        if vocab > 100_000 {
            let row = rows * vocab * 2;
            assert_traffic("log_softmax_at", &costs[0], Traffic { loads: row, stores: rows * c * 32 });
            assert_traffic("argmax", &costs[1], Traffic { loads: row, stores: rows * 32 });
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
        let Some(mut gpu) = Gpu::new(0) else { return };
        let (logits, out) = (gpu.act(&x), gpu.out(DType::U32, 1));
        gpu.run(Argmax { logits, vocab, out });
        assert_eq!(gpu.get_u32(out)[0] as usize, *columns.iter().min().unwrap());
    }
}
