//! Integration tests, one binary so that they link once. One file per subject.

mod adapters;
mod binary;
mod choices;
mod dataset;
mod demo;
mod docs;
mod evaluation;
mod examples;
mod golden;
mod held;
mod hostile;
mod loading;
mod mutations;
mod packing;
mod plans;
mod program;
mod provenance;
mod real_job;
mod resume;
#[path = "../../src/data/shared.rs"]
mod shared;
mod supply;
