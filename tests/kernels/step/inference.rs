//! Scores and generated tokens, against the CPU.

use super::*;

/// The CPU's log-probabilities, in NF4 and without quantisation, with a head of its own, a tied one, and one in NF4.
#[test]
fn scores_are_the_cpu_scores() {
    let batch = documents(&[50, 2, 71]);
    let packed_head = ModelConfig { vocab: 576, ..model(true) };
    for (model, residency, head, embedding) in [
        (model(false), Residency::Nf4, HeadStore::Dense, Space::Device),
        (model(true), Residency::Dense, HeadStore::Dense, Space::Device),
        (packed_head, Residency::Nf4, HeadStore::Nf4, Space::Host),
    ] {
        let base = spec(Some(lora(0.5, &Module::ALL)), false);
        let spec = EngineSpec { model, residency: vec![residency; 2], head, embedding, ..base };
        let Some((mut gpu, ledger)) = cuda(spec.clone(), 3) else { return };
        let score = |e: &mut Engine| {
            let targets = e.target_logprobs(&batch).unwrap_or_else(|e| panic!("{e}"));
            let choices = e.choice_logprobs(&batch, &[49, 51, 122], &[3, 500, 77, 4]).unwrap();
            [targets, choices]
        };
        let (got, rounded, exact) = (score(&mut gpu), score(&mut rounded(spec.clone())), score(&mut cpu(spec)));
        assert_eq!(got[1].len(), 12);
        for ((got, rounded), exact) in got.iter().zip(&rounded).zip(&exact) {
            let ((rounding, _), (error, factor)) = (distance(rounded, exact), distance(got, exact));
            println!("log-probabilities: {error:.5}, rounding {rounding:.5}, factor {factor:.6}");
            assert!(
                error < 1.5 * rounding && (factor - 1.0).abs() < 2e-3,
                "{error}, rounding alone {rounding}, {factor}"
            );
        }
        let taken = if embedding == Space::Host { 2 } else { 1 };
        assert!(real_device().is_some() || ledger.lock().unwrap().allocations.len() == taken);
    }
}

/// Each token is, up to rounding, the one that the cpu backend finds the most probable: few sequences (the thin product) and many (tiles), slots that are used again.
#[test]
fn generated_tokens_are_the_most_probable() {
    let mut rng = Rng::new(4, 4);
    let mut prompt = |n: usize| -> Vec<u32> { (0..n).map(|_| rng.below(520)).collect() };
    let few = vec![prompt(9), prompt(1), prompt(40)];
    let many: Vec<Vec<u32>> = (1..=11).map(&mut prompt).collect();
    for (prompts, slots) in [(few, 2), (many, 10)] {
        let base = spec(Some(lora(0.0, &Module::ALL)), false);
        let spec = EngineSpec { kv_slots: slots, kv_capacity: 300, ..base };
        let Some((mut gpu, ledger)) = cuda(spec.clone(), 5) else { return };
        let texts = gpu.generate(&prompts, 4, &[519], &mut |_, _, _| {}).unwrap_or_else(|e| panic!("{e}"));
        let mut cpu = cpu(EngineSpec { kv_slots: 0, ..spec });
        for (prompt, text) in prompts.iter().zip(&texts) {
            assert!(text.len() == 4 || text.last() == Some(&519), "{text:?}");
            let mut batch = MicroBatch::new();
            batch.push_prompt(0, &[&prompt[..], text].concat());
            let rows: Vec<u32> = (0..text.len()).map(|i| (prompt.len() - 1 + i) as u32).collect();
            // After each row, the log-probability of every token.
            let ids: Vec<u32> = (0..520).collect();
            let parts: Vec<Vec<f32>> =
                ids.chunks(130).map(|ids| cpu.choice_logprobs(&batch, &rows, ids).unwrap()).collect();
            for (row, &token) in text.iter().enumerate() {
                let all: Vec<f32> = parts.iter().flat_map(|p| p[row * 130..(row + 1) * 130].to_vec()).collect();
                let best = all.iter().copied().fold(f32::MIN, f32::max);
                // bf16 moves a log-probability by about 0.01 nats (see the test of scores); the best two may be as near.
                assert!(best - all[token as usize] < 0.04, "{token} is {} below the best", best - all[token as usize]);
            }
        }
        let book = ledger.lock().unwrap();
        let thin = book.costs.contains_key("gemv_nf4") && book.allocations.len() == 1;
        assert!(thin || real_device().is_some(), "one allocation; a product of few rows takes the thin path");
    }
}
