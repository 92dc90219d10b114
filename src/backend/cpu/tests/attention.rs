use super::*;
use crate::backend::KvCache;
use proptest::prelude::*;

const HEADS: Heads = Heads { q: 4, kv: 2, dim: 6 };

/// The definition, in f64: o, and lse.
fn reference(qk: &[f64], qkv: &[f64], lengths: &[usize], h: Heads) -> (Vec<f64>, Vec<f64>) {
    let t: usize = lengths.iter().sum();
    let (mut o, mut lse) = (vec![0.0; t * h.q_width()], vec![0.0; t * h.q]);
    let mut first = 0;
    for &n in lengths {
        for i in first..first + n {
            for head in 0..h.q {
                let kv = head / (h.q / h.kv);
                let q = &qk[i * h.qk_width() + head * h.dim..][..h.dim];
                let score = |j: usize| {
                    let k = &qk[j * h.qk_width() + h.q_width() + kv * h.dim..][..h.dim];
                    q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() / (h.dim as f64).sqrt()
                };
                let total: f64 = (first..=i).map(|j| score(j).exp()).sum();
                lse[i * h.q + head] = total.ln();
                for j in first..=i {
                    let p = score(j).exp() / total;
                    let v = &qkv[j * h.qkv_width() + h.qk_width() + kv * h.dim..][..h.dim];
                    for (o, v) in o[i * h.q_width() + head * h.dim..].iter_mut().zip(v) {
                        *o += p * v;
                    }
                }
            }
        }
        first += n;
    }
    (o, lse)
}

struct Results {
    o: Vec<f32>,
    lse: Vec<f32>,
    dqk: Vec<f32>,
    dqkv: Vec<f32>,
}

fn run(lengths: &[usize], h: Heads, qk: &[f32], qkv: &[f32], d_o: &[f32], threads: usize) -> Results {
    let mut r = Rig::new(threads);
    let rows = r.rows(lengths);
    let t = rows.count;
    let (qk, qkv, d_o) = (r.f32(qk), r.f32(qkv), r.f32(d_o));
    let (o, lse) = (r.out(DType::F32, t * h.q_width()), r.out(DType::F32, t * h.q));
    let (dqk, dqkv) = (r.out(DType::F32, t * h.qk_width()), r.f32(&vec![7.0; t * h.qkv_width()]));
    r.start((t * h.q * 4).next_multiple_of(256));
    r.be.run(&Attention { qk, qkv, rows, heads: h, o, lse }.into()).unwrap();
    r.be.run(&AttentionBackward { qk, qkv, o, lse, do_: d_o, rows, heads: h, dqk, dqkv }.into()).unwrap();
    Results { o: r.get(o), lse: r.get(lse), dqk: r.get(dqk), dqkv: r.get(dqkv) }
}

fn inputs(lengths: &[usize], h: Heads) -> [Vec<f32>; 3] {
    let t: usize = lengths.iter().sum();
    let mut r = Rig::new(1);
    [t * h.qk_width(), t * h.qkv_width(), t * h.q_width()].map(|n| r.random(n))
}

#[test]
fn forward_is_its_definition() {
    let shapes = [
        (&[1usize, 130, 3, 0, 17][..], HEADS),
        (&[64, 65], Heads { q: 3, kv: 3, dim: 16 }),
        (&[200], Heads { q: 4, kv: 1, dim: 2 }),
    ];
    for (lengths, h) in shapes {
        let [qk, qkv, d_o] = inputs(lengths, h);
        let got = run(lengths, h, &qk, &qkv, &d_o, 2);
        let (o, lse) = reference(&wide(&qk), &wide(&qkv), lengths, h);
        assert_close("o", &got.o, &o, 2e-6);
        assert_close("lse", &got.lse, &lse, 5e-7);
    }
}

#[test]
fn backward_is_the_derivative() {
    for (lengths, h) in [(&[1usize, 70, 5][..], Heads { q: 2, kv: 1, dim: 3 }), (&[3, 17, 1], HEADS)] {
        let [qk, qkv, d_o] = inputs(lengths, h);
        let got = run(lengths, h, &qk, &qkv, &d_o, 2);
        let (qk, qkv, d_o) = (wide(&qk), wide(&qkv), wide(&d_o));
        let dqk = numeric_gradient(&qk, |qk| weighted(&reference(qk, &qkv, lengths, h).0, &d_o));
        assert_close("dqk", &got.dqk, &dqk, 2e-6);
        let dqkv = numeric_gradient(&qkv, |qkv| weighted(&reference(&qk, qkv, lengths, h).0, &d_o));
        let (width, v) = (h.qkv_width(), h.qk_width());
        for (got, want) in got.dqkv.chunks(width).zip(dqkv.chunks(width)) {
            assert!(got[..v].iter().all(|&x| x == 7.0), "the q and k columns stay");
            assert_close("dv", &got[v..], &want[v..], 5e-6);
        }
    }
}

#[test]
fn threads_change_no_bit() {
    let lengths = [130, 1, 65, 3];
    let [qk, qkv, d_o] = inputs(&lengths, HEADS);
    let [one, three] = [1, 3].map(|n| run(&lengths, HEADS, &qk, &qkv, &d_o, n));
    assert_eq!((one.o, one.lse, one.dqk, one.dqkv), (three.o, three.lse, three.dqk, three.dqkv));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// Outputs and gradients of a document are the same bits alone and among others, whatever those hold.
    #[test]
    fn a_document_never_influences_another(lengths in prop::collection::vec(1usize..90, 1..5), at in 0usize..5) {
        let at = at % lengths.len();
        let [qk, qkv, d_o] = inputs(&lengths, HEADS);
        let all = run(&lengths, HEADS, &qk, &qkv, &d_o, 2);
        let start: usize = lengths[..at].iter().sum();
        let rows = start..start + lengths[at];
        let part = |x: &[f32], width: usize| x[rows.start * width..rows.end * width].to_vec();
        let (a, b, c, d) = (HEADS.qk_width(), HEADS.qkv_width(), HEADS.q_width(), HEADS.q);
        let alone = run(&lengths[at..=at], HEADS, &part(&qk, a), &part(&qkv, b), &part(&d_o, c), 2);
        prop_assert_eq!(part(&all.o, c), alone.o);
        prop_assert_eq!(part(&all.lse, d), alone.lse);
        prop_assert_eq!(part(&all.dqk, a), alone.dqk);
        prop_assert_eq!(part(&all.dqkv, b), alone.dqkv);
    }
}

/// Generation a row at a time gives what the whole document gives.
#[test]
fn cached_attention_is_the_last_row_of_attention() {
    let (h, lengths, capacity) = (HEADS, [140usize, 3, 1], 150);
    let [qk, qkv, _] = inputs(&lengths, h);
    let (want, _) = reference(&wide(&qk), &wide(&qkv), &lengths, h);
    let mut r = Rig::new(2);
    let rows = r.rows(&lengths);
    let slots = [2u32, 0, 1];
    let all_slots: Vec<u32> = lengths.iter().zip(slots).flat_map(|(&n, s)| std::iter::repeat_n(s, n)).collect();
    let all_slots = r.u32(&all_slots);
    let (qk_all, qkv_all) = (r.f32(&qk), r.f32(&qkv));
    let last: Vec<usize> = vec![139, 142, 143];
    let last_qk: Vec<f32> = last.iter().flat_map(|&i| qk[i * h.qk_width()..(i + 1) * h.qk_width()].to_vec()).collect();
    let last_qk = r.f32(&last_qk);
    let step = Rows { count: 3, positions: r.u32(&[139, 2, 0]), ..r.rows(&[1, 1, 1]) };
    let (step_slots, o) = (r.u32(&slots), r.out(DType::F32, 3 * h.q_width()));
    let len = 3 * capacity * h.kv_width();
    let cache = KvCache { k: r.out(DType::F32, len), v: r.out(DType::F32, len), capacity };
    let beyond = Rows { positions: r.u32(&[150, 2, 0]), ..step };
    r.start(256);
    r.be.run(&KvStore { qk: qk_all, qkv: qkv_all, rows, slots: all_slots, heads: h, cache }.into()).unwrap();
    r.be.run(&AttentionCached { qk: last_qk, rows: step, slots: step_slots, heads: h, cache, o }.into()).unwrap();
    let want: Vec<f64> = last.iter().flat_map(|&i| want[i * h.q_width()..(i + 1) * h.q_width()].to_vec()).collect();
    assert_close("o", &r.get(o), &want, 2e-6);
    let error =
        r.be.run(&AttentionCached { qk: last_qk, rows: beyond, slots: step_slots, heads: h, cache, o }.into())
            .unwrap_err()
            .to_string();
    assert_eq!(error, "attention_cached: slot 2, position 150 is outside a cache of 3 slots of 150 positions");
}

#[test]
fn documents_that_do_not_cover_the_rows_are_errors() {
    let mut r = Rig::new(1);
    let rows = Rows { count: 6, ..r.rows(&[2, 3]) };
    let [qk, qkv, o, lse] =
        [6 * HEADS.qk_width(), 6 * HEADS.qkv_width(), 6 * HEADS.q_width(), 6 * HEADS.q].map(|n| r.out(DType::F32, n));
    r.start(0);
    let error = r.be.run(&Attention { qk, qkv, rows, heads: HEADS, o, lse }.into()).unwrap_err().to_string();
    assert_eq!(error, "attention: documents [0, 2, 5] do not cover 6 rows");
    let heads = Heads { q: 3, kv: 2, dim: 6 };
    assert!(r.be.run(&Attention { qk, qkv, rows, heads, o, lse }.into()).is_err());
}
