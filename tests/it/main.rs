//! Integration tests, one binary so that they link once. One file per subject.

mod dataset;
mod evaluation;
mod examples;
mod golden;
mod shared;
