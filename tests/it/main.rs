//! Integration tests, one binary so that they link once. One file per subject.

mod dataset;
mod demo;
mod docs;
mod evaluation;
mod examples;
mod golden;
mod real_job;
mod shared;
