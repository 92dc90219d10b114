//! Integration tests, one binary so that they link once. One file per subject.
mod evaluation;
mod examples;
mod golden;
