//! Which samples make up which step, and how they are packed.

use super::case::Case;
use crate::{
    data::{MicroBatch, order::DataOrder},
    train::steps::{StepPlan, micro_batches},
};

#[test]
fn an_epoch_is_every_sample_once_and_each_epoch_another_order() {
    let case = Case::new("");
    let mut plan = StepPlan::new(&case.config, 11).unwrap();
    assert_eq!((plan.total(), plan.per_epoch()), (9, 3));
    let mut epochs = Vec::new();
    for epoch in 0..3 {
        let seen: Vec<usize> = (1..=3).flat_map(|s| plan.samples_of(epoch * 3 + s).to_vec()).collect();
        assert_eq!(plan.samples_of(epoch * 3 + 3).len(), 3);
        let mut sorted = seen.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..11).collect::<Vec<_>>());
        epochs.push(seen);
    }
    assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
    let mut config = case.config.clone();
    config.data_order = DataOrder::Sequential;
    assert_eq!(StepPlan::new(&config, 11).unwrap().samples_of(5), [4, 5, 6, 7]);
    config.num_epochs = 0.4;
    assert_eq!(StepPlan::new(&config, 11).unwrap().total(), 2);
    config.max_steps = Some(50);
    assert_eq!(StepPlan::new(&config, 11).unwrap().total(), 50);
    assert!(StepPlan::new(&config, 0).is_err());
}

#[test]
fn micro_batches_keep_to_the_budget_and_lose_nothing() {
    let case = Case::new("");
    let numbers: Vec<usize> = (0..11).rev().collect();
    for budget in [7, 8, 13, 1000] {
        let batches = micro_batches(&case.samples, &numbers, budget).unwrap();
        assert!(batches.iter().all(|b| b.rows() <= budget));
        let rows: usize = batches.iter().map(MicroBatch::rows).sum();
        assert_eq!(rows, case.samples.iter().map(|s| s.tokens.len()).sum::<usize>());
        let mut docs: Vec<u32> =
            batches.iter().flat_map(|b| b.cu_seqlens[..b.docs()].iter().map(|&r| b.samples[r as usize])).collect();
        docs.sort_unstable();
        assert_eq!(docs, (0..11).collect::<Vec<_>>());
    }
    assert!(micro_batches(&case.samples, &numbers, 6).is_err());
}
