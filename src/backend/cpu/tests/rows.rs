use super::*;

const EPS: f64 = 1e-6;

fn rmsnorm(x: &[f64], w: &[f64]) -> Vec<f64> {
    x.chunks(w.len())
        .flat_map(|x| {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / w.len() as f64;
            x.iter().zip(w).map(|(x, w)| x / (mean + EPS).sqrt() * w).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn rmsnorm_and_its_gradient_with_every_aliasing() {
    for (rows, width) in [(1, 4), (3, 5), (17, 64), (5, 130)] {
        let mut r = Rig::new(2);
        let [x, dy, add] = [(); 3].map(|()| r.random(rows * width));
        let w = r.random(width);
        let (xb, wb, dyb, addb) = (r.f32(&x), r.f32(&w), r.f32(&dy), r.f32(&add));
        let (y, dx, dx_add) = (r.out(DType::F32, x.len()), r.out(DType::F32, x.len()), r.out(DType::F32, x.len()));
        let (over_dy, over_dy_add, over_add, over_both) = (r.f32(&dy), r.f32(&dy), r.f32(&add), r.f32(&dy));
        r.start(0);
        let eps = EPS as f32;
        r.be.run(&RmsNorm { x: xb, w: wb, eps, y }.into()).unwrap();
        r.be.run(&RmsNormBackward { x: xb, w: wb, eps, dy: dyb, add: None, dx }.into()).unwrap();
        r.be.run(&RmsNormBackward { x: xb, w: wb, eps, dy: dyb, add: Some(addb), dx: dx_add }.into()).unwrap();
        r.be.run(&RmsNormBackward { x: xb, w: wb, eps, dy: over_dy, add: None, dx: over_dy }.into()).unwrap();
        r.be.run(&RmsNormBackward { x: xb, w: wb, eps, dy: over_dy_add, add: Some(addb), dx: over_dy_add }.into())
            .unwrap();
        r.be.run(&RmsNormBackward { x: xb, w: wb, eps, dy: dyb, add: Some(over_add), dx: over_add }.into()).unwrap();
        r.be.run(&RmsNormBackward { x: xb, w: wb, eps, dy: over_both, add: Some(over_both), dx: over_both }.into())
            .unwrap();
        let (w, dy) = (wide(&w), wide(&dy));
        assert_close("y", &r.get(y), &rmsnorm(&wide(&x), &w), 3e-7);
        let want = numeric_gradient(&wide(&x), |x| weighted(&rmsnorm(x, &w), &dy));
        let plus = |other: &[f64]| want.iter().zip(other).map(|(a, b)| a + b).collect::<Vec<_>>();
        assert_close("dx", &r.get(dx), &want, 1e-6);
        assert_close("dx over dy", &r.get(over_dy), &want, 1e-6);
        assert_close("dx + add", &r.get(dx_add), &plus(&wide(&add)), 1e-6);
        assert_close("dx over dy + add", &r.get(over_dy_add), &plus(&wide(&add)), 1e-6);
        assert_close("dx over add", &r.get(over_add), &plus(&wide(&add)), 1e-6);
        assert_close("dx over dy and add", &r.get(over_both), &plus(&dy), 1e-6);
    }
}

const HEADS: Heads = Heads { q: 4, kv: 2, dim: 8 };

fn table(positions: usize, dim: usize) -> Vec<f32> {
    let angle = |p: usize, i: usize| p as f64 * 10_000f64.powf(-2.0 * i as f64 / dim as f64);
    (0..positions)
        .flat_map(|p| {
            let cos = (0..dim / 2).map(move |i| angle(p, i).cos() as f32);
            cos.chain((0..dim / 2).map(move |i| angle(p, i).sin() as f32))
        })
        .collect()
}

/// Head norm and RoPE of the q and k columns, in f64.
fn headnorm_rope(qkv: &[f64], positions: &[u32], q_norm: &[f64], k_norm: &[f64], rope: &[f64]) -> Vec<f64> {
    let (h, d) = (HEADS, HEADS.dim);
    let mut out = Vec::new();
    for (row, &p) in qkv.chunks(h.qkv_width()).zip(positions) {
        let (cos, sin) = rope[p as usize * d..][..d].split_at(d / 2);
        for (head, x) in row[..h.qk_width()].chunks(d).enumerate() {
            let x = rmsnorm(x, if head < h.q { q_norm } else { k_norm });
            out.extend((0..d).map(|i| {
                let j = i % (d / 2);
                if i < d / 2 { x[i] * cos[j] - x[i + d / 2] * sin[j] } else { x[i] * cos[j] + x[i - d / 2] * sin[j] }
            }));
        }
    }
    out
}

#[test]
fn headnorm_rope_and_its_gradient() {
    let (h, lengths) = (HEADS, [1usize, 9, 4]);
    let mut r = Rig::new(2);
    let rows = r.rows(&lengths);
    let positions: Vec<u32> = lengths.iter().flat_map(|&n| 0..n as u32).collect();
    let qkv = r.random(rows.count * h.qkv_width());
    let dqk = r.random(rows.count * h.qk_width());
    let (q_norm, k_norm, rope) = (r.random(h.dim), r.random(h.dim), table(9, h.dim));
    let p = Rotary { heads: h, q_norm: r.f32(&q_norm), k_norm: r.f32(&k_norm), eps: EPS as f32, table: r.f32(&rope) };
    let (qkv_b, dqk_b) = (r.f32(&qkv), r.f32(&dqk));
    let (qk, dqkv) = (r.out(DType::F32, dqk.len()), r.f32(&vec![7.0; qkv.len()]));
    let short = Rotary { table: r.f32(&rope[..8 * h.dim]), ..p };
    r.start(0);
    r.be.run(&HeadNormRope { qkv: qkv_b, rows, rotary: p, qk }.into()).unwrap();
    r.be.run(&HeadNormRopeBackward { qkv: qkv_b, dqk: dqk_b, rows, rotary: p, dqkv }.into()).unwrap();
    let [q_norm, k_norm, rope, dqk] = [&q_norm, &k_norm, &rope, &dqk].map(|x| wide(x));
    let f = |qkv: &[f64]| headnorm_rope(qkv, &positions, &q_norm, &k_norm, &rope);
    assert_close("qk", &r.get(qk), &f(&wide(&qkv)), 3e-7);
    let want = numeric_gradient(&wide(&qkv), |x| weighted(&f(x), &dqk));
    for (got, want) in r.get(dqkv).chunks(h.qkv_width()).zip(want.chunks(h.qkv_width())) {
        assert_close("dqkv", &got[..h.qk_width()], &want[..h.qk_width()], 2e-6);
        assert!(got[h.qk_width()..].iter().all(|&x| x == 7.0), "the v columns stay");
    }
    let error = r.be.run(&HeadNormRope { qkv: qkv_b, rows, rotary: short, qk }.into()).unwrap_err().to_string();
    assert_eq!(error, "headnorm_rope: position 8 is beyond the 8 of the rotary table");
}

#[test]
fn swiglu_and_its_gradient() {
    for (rows, f) in [(1, 1), (3, 7), (17, 40)] {
        let mut r = Rig::new(2);
        let mut gu = r.random(rows * 2 * f);
        gu[0] = -100.0; // σ underflows
        let ds = r.random(rows * f);
        let (gu_b, ds_b, s) = (r.f32(&gu), r.f32(&ds), r.out(DType::F32, rows * f));
        r.start(0);
        r.be.run(&SwiGlu { gu: gu_b, width: f, s }.into()).unwrap();
        let reference = |gu: &[f64]| -> Vec<f64> {
            gu.chunks(2 * f)
                .flat_map(|x| (0..f).map(|i| x[i] / (1.0 + (-x[i]).exp()) * x[f + i]).collect::<Vec<_>>())
                .collect()
        };
        assert_close("s", &r.get(s), &reference(&wide(&gu)), 3e-7);
        r.be.run(&SwiGluBackward { gu: gu_b, width: f, ds: ds_b }.into()).unwrap();
        let want = numeric_gradient(&wide(&gu), |x| weighted(&reference(x), &wide(&ds)));
        assert_close("dgu", &r.get(gu_b), &want, 5e-7);
    }
}

#[test]
fn rows_move_by_index() {
    let mut r = Rig::new(2);
    let table: Vec<f32> = (0..15).map(|i| i as f32).collect();
    let halves: Vec<half::bf16> = table.iter().map(|&x| half::bf16::from_f32(x)).collect();
    let (full, half) = (r.f32(&table), r.raw(DType::Bf16, 15, bytemuck::cast_slice(&halves)));
    let tokens = r.u32(&[4, 0, 4, 2]);
    let rows = Rows { tokens, ..r.rows(&[4]) };
    let bad = Rows { tokens: r.u32(&[4, 5, 0, 0]), ..rows };
    let (a, b, c) = (r.out(DType::F32, 12), r.out(DType::F32, 12), r.out(DType::F32, 6));
    let (index, far) = (r.u32(&[3, 1]), r.u32(&[1, 5]));
    r.start(0);
    let want = [12., 13., 14., 0., 1., 2., 12., 13., 14., 6., 7., 8.];
    r.be.run(&Embed { table: full, rows, out: a }.into()).unwrap();
    r.be.run(&Embed { table: half, rows, out: b }.into()).unwrap();
    assert_eq!((r.get(a), r.get(b)), (want.to_vec(), want.to_vec()));
    assert_eq!(
        r.be.run(&Embed { table: full, rows: bad, out: a }.into()).unwrap_err().to_string(),
        "embed: token 5 is outside 5 rows"
    );
    r.be.run(&GatherRows { x: full, index, width: 3, out: c }.into()).unwrap();
    assert_eq!(r.get(c), [9., 10., 11., 3., 4., 5.]);
    assert!(r.be.run(&GatherRows { x: full, index: far, width: 3, out: c }.into()).is_err());
    r.be.run(&Zero { dst: a }.into()).unwrap();
    r.be.run(&ScatterRows { src: c, index, width: 3, x: a }.into()).unwrap();
    assert_eq!(r.get(a), [0., 0., 0., 3., 4., 5., 0., 0., 0., 9., 10., 11.]);
    assert!(r.be.run(&ScatterRows { src: c, index: far, width: 3, x: a }.into()).is_err());
}
