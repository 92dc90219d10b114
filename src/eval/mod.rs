//! Answering multiple-choice questions and judging the answers: scoring by log-likelihood or by generation, the answer
//! parser, result files, letters said and right, and the paired comparison of two results.

pub mod accuracy;
pub mod answer;
pub mod ask;
pub mod compare;
pub mod generate;
pub mod item;
pub mod letters;
pub mod loglik;
pub mod result;
pub mod score;

use crate::data::questions::Choice;

/// What stands in a result when no answer could be read from a response.
pub const UNKNOWN: &str = "unknown";

/// The letter, or [`UNKNOWN`].
pub fn label(choice: Option<Choice>) -> &'static str {
    choice.map_or(UNKNOWN, Choice::letter)
}
