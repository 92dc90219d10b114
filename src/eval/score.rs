//! Log-probability of each token of given texts: what `irori score` prints, and what other programs compare with.

use super::ask::{Model, pack};
use crate::{
    Error, Result,
    data::{MicroBatch, Sample},
};

/// ln p of each token after the first of each text, `None` for the first. Texts are packed under the model's row limit;
/// `done(n)` counts finished ones, `name` names one that is too long.
pub fn score(
    model: &mut dyn Model,
    texts: &[Vec<u32>],
    name: impl Fn(usize) -> String,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Option<f32>>>> {
    let mut out: Vec<Vec<Option<f32>>> = texts.iter().map(|t| vec![None; t.len()]).collect();
    // A text of one token has nothing to predict, an empty one nothing at all.
    let scored: Vec<usize> = (0..texts.len()).filter(|&i| texts[i].len() > 1).collect();
    let lengths: Vec<usize> = scored.iter().map(|&i| texts[i].len()).collect();
    let mut finished = texts.len() - scored.len();
    for bin in pack(&lengths, model.limits(), |i| name(scored[i]))? {
        let mut batch = MicroBatch::new();
        for &b in &bin {
            let tokens = texts[scored[b]].clone();
            let labels = tokens.iter().map(|&t| t as i32).collect();
            batch.push(scored[b] as u32, &Sample { tokens, labels });
        }
        let logprobs = model.target_logprobs(&batch)?;
        if logprobs.len() != batch.target_ids.len() {
            return Err(Error::internal("the model returned the wrong number of log-probabilities"));
        }
        let mut rest = logprobs.into_iter();
        for &b in &bin {
            for slot in out[scored[b]].iter_mut().skip(1) {
                *slot = rest.next();
            }
        }
        finished += bin.len();
        done(finished);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::ask::tests::Scripted;

    /// ln p of a token is minus itself, less its predecessor over a thousand.
    fn negative() -> Scripted {
        let targets = |b: &MicroBatch| {
            let of = |(&row, &id): (&u32, &u32)| -(id as f32) - b.tokens[row as usize] as f32 / 1000.0;
            b.target_rows.iter().zip(&b.target_ids).map(of).collect()
        };
        Scripted { limits: (6, 5), targets: Some(Box::new(targets)), ..Scripted::default() }
    }

    #[test]
    fn every_token_but_the_first_has_its_own() {
        let texts = [vec![1, 2, 3], vec![], vec![9], vec![4, 5, 6, 7, 8], vec![7, 1]];
        let mut seen = 0;
        let out = score(&mut negative(), &texts, |i| i.to_string(), &mut |n| seen = n).expect("scored");
        assert_eq!(seen, 5);
        assert_eq!(out[0], [None, Some(-2.001), Some(-3.002)]);
        assert_eq!(out[1], []);
        assert_eq!(out[2], [None]);
        assert_eq!(out[3][1..], [5, 6, 7, 8].map(|t| Some(-(t as f32) - (t - 1) as f32 / 1000.0)));
        assert_eq!(out[4], [None, Some(-1.007)]);
        assert!(score(&mut negative(), &[vec![0; 6]], |i| format!("line {}", i + 1), &mut |_| ()).is_err());
    }
}
