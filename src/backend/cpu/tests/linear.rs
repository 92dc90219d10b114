use super::*;
use crate::backend::WeightStore;
use half::bf16;
use std::ops::Range;

/// `y (+)= x·Wᵀ` in f64: x [rows, k], w [n, k].
fn product(x: &[f64], w: &[f64], rows: usize, n: usize, k: usize) -> Vec<f64> {
    let mut y = vec![0.0; rows * n];
    for t in 0..rows {
        for j in 0..n {
            y[t * n + j] = (0..k).map(|l| x[t * k + l] * w[j * k + l]).sum();
        }
    }
    y
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Store {
    F32,
    Bf16,
    Nf4(DType),
    /// The values of `Nf4`, unpacked.
    Unpacked(DType, DType),
}

/// All results of one layer: y, y with add, dz, and of each part u, v, dA, dB.
struct Results {
    y: Vec<f32>,
    y_add: Vec<f32>,
    y_over: Vec<f32>,
    dz: Vec<f32>,
    parts: Vec<[Vec<f32>; 4]>,
    /// The weight as it was multiplied.
    w: Vec<f32>,
}

struct Case {
    lengths: &'static [usize],
    n: usize,
    k: usize,
    parts: &'static [(u32, Range<usize>)],
    drop: Option<Dropout>,
}

const RANK: usize = 5;
const SCALE: f32 = 0.7;

struct Data {
    z: Vec<f32>,
    w: Vec<f32>,
    add: Vec<f32>,
    dy: Vec<f32>,
    /// A, B, initial dA, initial dB.
    parts: Vec<[Vec<f32>; 4]>,
}

fn data(c: &Case) -> Data {
    let mut r = Rig::new(1);
    let t: usize = c.lengths.iter().sum();
    Data {
        z: r.random(t * c.k),
        w: r.random(c.n * c.k),
        add: r.random(t * c.n),
        dy: r.random(t * c.n),
        parts: c
            .parts
            .iter()
            .map(|(_, out)| [RANK * c.k, out.len() * RANK, RANK * c.k, out.len() * RANK].map(|n| r.random(n)))
            .collect(),
    }
}

fn run(c: &Case, d: &Data, store: Store, threads: usize) -> Results {
    let mut r = Rig::new(threads);
    let rows = r.rows(c.lengths);
    let (t, n, k) = (rows.count, c.n, c.k);
    let z = r.f32(&d.z);
    let bf: Vec<bf16> = d.w.iter().map(|&x| bf16::from_f32(x)).collect();
    let nf4 = |r: &mut Rig, compute| WeightStore::Nf4 {
        packed: r.out(DType::U8, n * k / 2),
        absmax: r.out(DType::F32, n * k / 64),
        compute,
    };
    let (quantised, dense) = match store {
        Store::F32 => (None, Some(WeightStore::Dense(r.f32(&d.w)))),
        Store::Bf16 => (None, Some(WeightStore::Dense(r.raw(DType::Bf16, n * k, bytemuck::cast_slice(&bf))))),
        Store::Nf4(compute) => (Some(nf4(&mut r, compute)), None),
        Store::Unpacked(compute, dtype) => (Some(nf4(&mut r, compute)), Some(WeightStore::Dense(r.out(dtype, n * k)))),
    };
    let w = Weight { n, k, store: dense.or(quantised).unwrap() };
    let unpacked = r.out(DType::F32, n * k);
    let parts: Vec<LoraPart> = c
        .parts
        .iter()
        .zip(&d.parts)
        .map(|((module, out), [a, b, da, db])| LoraPart {
            module: *module,
            out: out.clone(),
            r: RANK,
            scale: SCALE,
            a: r.f32(a),
            b: r.f32(b),
            da: r.f32(da),
            db: r.f32(db),
            u: r.out(DType::F32, t * RANK),
            v: r.out(DType::F32, t * RANK),
        })
        .collect();
    let dy = r.f32(&d.dy);
    let [y, y_add] = [(); 2].map(|()| r.out(DType::F32, t * n));
    let (add, y_over, dz) = (r.f32(&d.add), r.f32(&d.add), r.out(DType::F32, t * k));
    let mask = mask(c.drop, &rows);
    let linear = |add, y| Op::from(Linear { z, w, parts: parts.clone(), add, y });
    let steps = [
        LoraDown { z, k, parts: parts.clone(), mask }.into(),
        linear(None, y),
        linear(Some(add), y_add),
        linear(Some(y_over), y_over),
        LoraBackward { z, k, dy, n, parts: parts.clone(), mask }.into(),
        LinearBackward { dy, w, parts: parts.clone(), mask, dz }.into(),
    ];
    r.start(steps.iter().map(|op| CpuProperties.scratch(op)).max().unwrap());
    if let Some(q @ WeightStore::Nf4 { packed, absmax, .. }) = quantised {
        r.be.run(
            &LoadNf4 { src: HostTensor { dtype: DType::F32, bytes: bytemuck::cast_slice(&d.w) }, packed, absmax }
                .into(),
        )
        .unwrap();
        if let Some(WeightStore::Dense(dense)) = dense {
            r.be.run(&Dequantize { w: Weight { n, k, store: q }, dst: dense }.into()).unwrap();
        }
    }
    r.be.run(&Dequantize { w, dst: unpacked }.into()).unwrap();
    steps.iter().try_for_each(|op| r.be.run(op)).unwrap();
    Results {
        y: r.get(y),
        y_add: r.get(y_add),
        y_over: r.get(y_over),
        dz: r.get(dz),
        parts: parts.iter().map(|p| [p.u, p.v, p.da, p.db].map(|b| r.get(b))).collect(),
        w: r.get(unpacked),
    }
}

/// The definitions of the trait, in f64.
fn check(c: &Case, d: &Data, got: &Results) {
    let (n, k) = (c.n, c.k);
    let places: Vec<(u32, u32)> =
        c.lengths.iter().enumerate().flat_map(|(i, &len)| (0..len as u32).map(move |p| (100 + i as u32, p))).collect();
    let t = places.len();
    // |error| of a sum of K products of size 1 in f32 is about √K·2⁻²⁴, of the largest of many results (about 4√K) less.
    let tolerance = 1e-6;
    let factor = |module: u32, row: usize, column: usize| match c.drop {
        None => 1.0,
        Some(p) => {
            let bits = p.bits(module, places[row].0, places[row].1, column as u32 / 4)[column % 4];
            if bits >= p.threshold() { f64::from(p.scale()) } else { 0.0 }
        }
    };
    let (z, w, dy) = (wide(&d.z), wide(&got.w), wide(&d.dy));
    let mut y = product(&z, &w, t, n, k);
    let mut dz = vec![0.0; t * k];
    for i in 0..t {
        for j in 0..n {
            for l in 0..k {
                dz[i * k + l] += dy[i * n + j] * w[j * k + l];
            }
        }
    }
    for (((module, out), [a, b, da, db]), [u, v, got_da, got_db]) in c.parts.iter().zip(&d.parts).zip(&got.parts) {
        let (a, b, scale) = (wide(a), wide(b), f64::from(SCALE));
        let dropped: Vec<f64> = (0..t * k).map(|i| z[i] * factor(*module, i / k, i % k)).collect();
        let want_u = product(&dropped, &a, t, RANK, k);
        assert_close("u", u, &want_u, tolerance);
        let mut want_v = vec![0.0; t * RANK];
        let (mut want_da, mut want_db) = (wide(da), wide(db));
        for i in 0..t {
            for (jj, j) in out.clone().enumerate() {
                for q in 0..RANK {
                    y[i * n + j] += scale * want_u[i * RANK + q] * b[jj * RANK + q];
                    want_v[i * RANK + q] += scale * dy[i * n + j] * b[jj * RANK + q];
                    want_db[jj * RANK + q] += scale * dy[i * n + j] * want_u[i * RANK + q];
                }
            }
            for q in 0..RANK {
                for l in 0..k {
                    want_da[q * k + l] += want_v[i * RANK + q] * dropped[i * k + l];
                    dz[i * k + l] += want_v[i * RANK + q] * a[q * k + l] * factor(*module, i, l);
                }
            }
        }
        assert_close("v", v, &want_v, tolerance);
        assert_close("dA", got_da, &want_da, tolerance);
        assert_close("dB", got_db, &want_db, tolerance);
    }
    assert_close("y", &got.y, &y, tolerance);
    let with: Vec<f64> = y.iter().zip(&d.add).map(|(y, &a)| y + f64::from(a)).collect();
    assert_close("y + add", &got.y_add, &with, tolerance);
    assert_eq!(got.y_add, got.y_over, "adding in place");
    assert_close("dz", &got.dz, &dz, tolerance);
}

const DROP: Option<Dropout> = Some(Dropout { p: 0.3, key: 0x1234_5678_9abc_def0, layer: 7 });

fn cases() -> Vec<Case> {
    let fused: &[(u32, Range<usize>)] = &[(0, 0..40), (2, 57..70)];
    let one: &[(u32, Range<usize>)] = &[(3, 0..70)];
    vec![
        Case { lengths: &[1], n: 70, k: 64, parts: one, drop: None },
        Case { lengths: &[1, 2], n: 70, k: 128, parts: fused, drop: DROP },
        Case { lengths: &[4], n: 70, k: 67, parts: fused, drop: DROP },
        Case { lengths: &[1, 11, 5], n: 70, k: 192, parts: fused, drop: DROP },
        Case { lengths: &[17], n: 1, k: 3, parts: &[], drop: None },
        Case { lengths: &[130, 1, 150], n: 70, k: 130, parts: fused, drop: DROP },
        Case { lengths: &[130], n: 70, k: 64, parts: one, drop: None },
    ]
}

#[test]
fn every_operation_is_its_definition() {
    for c in cases() {
        let d = data(&c);
        check(&c, &d, &run(&c, &d, Store::F32, 2));
        check(&c, &d, &run(&c, &d, Store::Bf16, 2));
        if c.k % 64 == 0 {
            check(&c, &d, &run(&c, &d, Store::Nf4(DType::Bf16), 2));
        }
    }
}

#[track_caller]
fn assert_same(a: &Results, b: &Results) {
    assert_eq!(a.w, b.w);
    assert_eq!(a.y, b.y);
    assert_eq!(a.y_add, b.y_add);
    assert_eq!(a.dz, b.dz);
    assert_eq!(a.parts, b.parts);
}

/// The plan changes speed, never results. The last case has more than one panel.
#[test]
fn residency_and_threads_change_no_bit() {
    let mut cases: Vec<Case> = cases().into_iter().filter(|c| c.k % 64 == 0).collect();
    cases.push(Case { lengths: &[3, 4], n: 600, k: 4096, parts: &[(1, 0..600)], drop: DROP });
    for c in cases {
        let d = data(&c);
        for compute in [DType::Bf16, DType::F32] {
            let packed = run(&c, &d, Store::Nf4(compute), 2);
            assert_same(&packed, &run(&c, &d, Store::Unpacked(compute, DType::F32), 2));
            assert_same(&packed, &run(&c, &d, Store::Nf4(compute), 1));
            assert_same(&packed, &run(&c, &d, Store::Nf4(compute), 3));
            if compute == DType::Bf16 {
                assert_same(&packed, &run(&c, &d, Store::Unpacked(compute, DType::Bf16), 2));
            }
        }
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let mut r = Rig::new(1);
    let (z, w, y) = (r.f32(&[0.0; 130]), r.f32(&[0.0; 130]), r.out(DType::F32, 4));
    r.start(1 << 12);
    let weight = |n, k| Weight { n, k, store: WeightStore::Dense(w) };
    let message = |r: Result<()>| r.unwrap_err().to_string();
    assert_eq!(
        message(r.be.run(&Linear { z, w: weight(2, 65), parts: Vec::new(), add: None, y: z }.into())),
        "linear: y has 130 elements, expected 4"
    );
    assert_eq!(
        message(r.be.run(&Linear { z, w: weight(2, 64), parts: Vec::new(), add: None, y }.into())),
        "linear: z of 130 elements is not rows of 64"
    );
    assert!(
        message(r.be.run(&Linear { z, w: weight(2, 0), parts: Vec::new(), add: None, y }.into()))
            .contains("not rows of 0")
    );
    let nf4 = WeightStore::Nf4 { packed: w, absmax: w, compute: DType::F32 };
    assert!(
        message(r.be.run(&Linear { z, w: Weight { n: 2, k: 65, store: nf4 }, parts: Vec::new(), add: None, y }.into()))
            .contains("not a multiple of 64")
    );
    r.be.run(&Linear { z, w: weight(2, 65), parts: Vec::new(), add: None, y }.into()).unwrap();
}
