//! Integration tests, one binary so that they link once. One file per subject.
mod examples;
mod golden;
