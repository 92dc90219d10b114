use super::*;

fn log_softmax(x: &[f64]) -> Vec<f64> {
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = x.iter().map(|v| (v - largest).exp()).sum();
    x.iter().map(|v| v - largest - sum.ln()).collect()
}

#[test]
fn cross_entropy_log_softmax_and_argmax() {
    for (rows, vocab) in [(1, 1), (3, 7), (17, 1000), (5, 5003)] {
        let mut r = Rig::new(2);
        let mut logits = r.random(rows * vocab);
        logits[0] = 300.0; // without subtraction of the largest, exp would overflow
        let targets: Vec<u32> = (0..rows).map(|i| (i * 31 % vocab) as u32).collect();
        let ids: Vec<u32> = (0..rows * 3).map(|i| (i * 17 % vocab) as u32).collect();
        let (x, tb, ib) = (r.f32(&logits), r.u32(&targets), r.u32(&ids));
        let (loss, at, best) = (r.f32(&[2.0]), r.out(DType::F32, rows * 3), r.out(DType::U32, rows));
        let (none, no_out) = (r.u32(&[]), r.out(DType::F32, 0));
        r.start((rows * 4).next_multiple_of(256));
        r.be.run(&LogSoftmaxAt { logits: x, vocab, ids: ib, c: 3, out: at }.into()).unwrap();
        r.be.run(&LogSoftmaxAt { logits: x, vocab, ids: none, c: 0, out: no_out }.into()).unwrap();
        r.be.run(&Argmax { logits: x, vocab, out: best }.into()).unwrap();
        r.be.run(&CrossEntropy { logits: x, vocab, targets: tb, grad_scale: 0.25, loss }.into()).unwrap();
        let logs: Vec<Vec<f64>> = logits.chunks(vocab).map(|x| log_softmax(&wide(x))).collect();
        let want: Vec<f64> = ids.iter().enumerate().map(|(i, &id)| logs[i / 3][id as usize]).collect();
        assert_close("log softmax", &r.get(at), &want, 3e-7);
        let total: f64 = 2.0 - targets.iter().zip(&logs).map(|(&t, l)| l[t as usize]).sum::<f64>();
        assert_close("loss", &r.get(loss), &[total], 2e-7);
        let gradient: Vec<f64> = logs
            .iter()
            .zip(&targets)
            .flat_map(|(l, &t)| {
                l.iter().enumerate().map(move |(i, l)| 0.25 * (l.exp() - f64::from(u8::from(i == t as usize))))
            })
            .collect();
        assert_close("gradient", &r.get(x), &gradient, 3e-7);
        let best: Vec<u32> = bytemuck::pod_collect_to_vec(&r.be.read(best).unwrap());
        for (b, x) in best.iter().zip(logits.chunks(vocab)) {
            assert!(x.iter().all(|&v| v <= x[*b as usize]));
        }
    }
}

#[test]
fn argmax_takes_the_first_of_equals_and_passes_over_nan() {
    let mut r = Rig::new(1);
    let x = r.f32(&[1.0, 3.0, 3.0, f32::NAN, 0.0, f32::NAN, -1.0, -1.0, f32::NAN, f32::NAN, f32::NAN, f32::NAN]);
    let out = r.out(DType::U32, 3);
    r.start(0);
    r.be.run(&Argmax { logits: x, vocab: 4, out }.into()).unwrap();
    assert_eq!(bytemuck::pod_collect_to_vec::<u8, u32>(&r.be.read(out).unwrap()), [1, 0, 0]);
}

#[test]
fn targets_outside_the_vocabulary_are_errors() {
    let mut r = Rig::new(1);
    let (x, t, loss) = (r.f32(&[0.0; 8]), r.u32(&[1, 4]), r.f32(&[0.0]));
    r.start(256);
    let error =
        r.be.run(&CrossEntropy { logits: x, vocab: 4, targets: t, grad_scale: 1.0, loss }.into())
            .unwrap_err()
            .to_string();
    assert_eq!(error, "cross_entropy: target 4 is outside a vocabulary of 4");
    assert_eq!(r.get(x), [0.0; 8]);
}
