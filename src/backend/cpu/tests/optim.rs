use super::*;

const P: AdamW =
    AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, step: 1, max_norm: Some(1.0) };

#[test]
fn adamw_follows_the_definition_for_several_steps() {
    for len in [1usize, 3, 17, 5000] {
        let mut r = Rig::new(2);
        let w = r.random(len);
        let gradients: Vec<Vec<f32>> = (0..5).map(|_| r.random(len)).collect();
        let (master, working, g) = (r.f32(&w), r.out(DType::F32, len), r.out(DType::F32, len));
        let (m, v, norm) = (r.f32(&vec![0.0; len]), r.f32(&vec![0.0; len]), r.out(DType::F32, 1));
        r.start(256);
        let (mut w, mut m1, mut m2) = (wide(&w), vec![0.0; len], vec![0.0; len]);
        for (i, gradient) in gradients.iter().enumerate() {
            let p = AdamW { step: i as u64 + 1, ..P };
            r.be.write(g, bytemuck::cast_slice(gradient)).unwrap();
            r.be.run(&GlobalNorm { grad: g, norm }.into()).unwrap();
            r.be.run(&AdamWUpdate { adamw: p, norm, grad: g, m, v, master, working }.into()).unwrap();
            let size = wide(gradient).iter().map(|g| g * g).sum::<f64>().sqrt();
            assert_close("norm", &r.get(norm), &[size], 1e-7);
            let clip = (1.0 / (size + 1e-6)).min(1.0);
            for j in 0..len {
                let g = f64::from(gradient[j]) * clip;
                w[j] *= 1.0 - 1e-2 * 0.01;
                m1[j] += 0.1 * (g - m1[j]);
                m2[j] = 0.999 * m2[j] + 0.001 * g * g;
                let corrections = (1.0 - 0.9f64.powi(i as i32 + 1), (1.0 - 0.999f64.powi(i as i32 + 1)).sqrt());
                w[j] -= 1e-2 / corrections.0 * m1[j] / (m2[j].sqrt() / corrections.1 + 1e-8);
            }
            assert_close("w", &r.get(master), &w, 1e-6);
            assert_close("m", &r.get(m), &m1, 1e-6);
            assert_close("v", &r.get(v), &m2, 1e-6);
            assert_eq!(r.get(master), r.get(working));
        }
    }
}

#[test]
fn works_in_place_and_writes_nothing_without_a_finite_norm() {
    let mut r = Rig::new(1);
    let w = r.random(10);
    let (master, g) = (r.f32(&w), r.f32(&[1.0; 10]));
    let (m, v) = (r.f32(&[0.0; 10]), r.f32(&[0.0; 10]));
    let bad: Vec<Buffer> = [f32::NAN, f32::INFINITY].iter().map(|&x| r.f32(&[x])).collect();
    let good = r.f32(&[3.0]);
    r.start(0);
    for norm in bad {
        r.be.run(&AdamWUpdate { adamw: P, norm, grad: g, m, v, master, working: master }.into()).unwrap();
        assert_eq!((r.get(master), r.get(m), r.get(v)), (w.clone(), vec![0.0; 10], vec![0.0; 10]));
    }
    r.be.run(
        &AdamWUpdate {
            adamw: AdamW { max_norm: None, weight_decay: 0.0, ..P },
            norm: good,
            grad: g,
            m,
            v,
            master,
            working: master,
        }
        .into(),
    )
    .unwrap();
    // The first step moves by lr against the sign of the gradient.
    let want: Vec<f64> = w.iter().map(|&w| f64::from(w) - 0.01).collect();
    assert_close("w", &r.get(master), &want, 1e-6);
}

#[test]
fn the_norm_of_many_elements_does_not_depend_on_threads() {
    let len = 100_003;
    let norms = [1, 3].map(|threads| {
        let mut r = Rig::new(threads);
        let g = r.random(len);
        let (g, norm) = (r.f32(&g), r.out(DType::F32, 1));
        r.start(256);
        r.be.run(&GlobalNorm { grad: g, norm }.into()).unwrap();
        r.get(norm)[0]
    });
    assert_eq!(norms[0], norms[1]);
    assert!((f64::from(norms[0]) / (len as f64).sqrt() - 1.0).abs() < 0.01);
}
