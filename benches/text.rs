//! Text: `cargo bench --bench text`. Tokenising and encoding in bytes a second with the real Qwen3 tokenizer, where the
//! shared data is (`IRORI_SHARED_DATA`); the chat template, the prompt template and packing in elements a second.

// `criterion_group!` makes a public function without a doc line.
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use irori::{
    data::{
        chat::{ChatTemplate, Message},
        encode::{Encoder, Limits, LossOn, TextStyle},
        packing,
        permute::Permutation,
        prompt::{self, Context, PromptTemplate},
        questions::{lawqa, records},
        record::{self, Record},
        tokenizer::Tokenizer,
    },
    rng::Rng,
};
use std::path::{Path, PathBuf};

/// The path of `name` in the shared data, or `None` after saying that it is not there.
fn shared(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("IRORI_SHARED_DATA")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data")), PathBuf::from);
    let path = root.join(name);
    if !path.exists() {
        eprintln!("SKIP: {} is not there (set IRORI_SHARED_DATA)", path.display());
    }
    path.exists().then_some(path)
}

fn tokenizer(c: &mut Criterion) {
    let (Some(dir), Some(data)) = (shared("qwen3_tokenizer"), shared("lawqa_jp/selection.json")) else { return };
    let tokenizer = Tokenizer::load(&dir).expect("the tokenizer loads");
    let questions = lawqa::read(&data).expect("the questions load").questions;
    let template = PromptTemplate::load("answer-line").expect("a template of irori's own");
    let lines: Vec<String> = questions
        .iter()
        .map(|q| records::line(q, &template, Context::Gold, &[], Permutation::identity(4)).expect("a record"))
        .map(|line| line.to_string())
        .collect();
    let records = record::parse(Path::new("records"), lines.join("\n").as_bytes()).expect("records");
    let text: String = records.iter().map(Record::text).collect::<Vec<_>>().join("\n");
    let mut group = c.benchmark_group("tokenizer");
    group.sample_size(10).throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("one text of 140 questions", |b| b.iter(|| tokenizer.encode(&text).expect("tokenised")));
    let encoder = Encoder::load(&dir, TextStyle::Chat).expect("an encoder");
    let limits = Limits { vocab: 151_936, max_len: 32_768 };
    group.bench_function("140 records to samples, all threads", |b| {
        b.iter(|| encoder.encode(Path::new("records"), &records, limits, LossOn::Answer).expect("encoded"));
    });
    group.finish();
    let mut group = c.benchmark_group("templates with the shared data");
    group.sample_size(20).throughput(Throughput::Elements(1));
    let chat = ChatTemplate::load(&dir).expect("a chat template");
    let messages = [Message::new("user", questions[0].text.clone())];
    group.bench_function("chat template of Qwen3", |b| {
        b.iter(|| chat.render(&messages, true, false).expect("rendered"))
    });
}

fn templates(c: &mut Criterion) {
    let question = prompt::worked_example().expect("an example of irori's own");
    let mut group = c.benchmark_group("templates");
    group.sample_size(20).throughput(Throughput::Elements(1));
    let chat = ChatTemplate::chatml().expect("a chat template");
    let messages = [Message::new("user", question.text.clone())];
    group.bench_function("ChatML", |b| b.iter(|| chat.render(&messages, true, false).expect("rendered")));
    for name in ["letter", "answer-line", "cot"] {
        let template = PromptTemplate::load(name).expect("a template of irori's own");
        group.bench_function(format!("prompt {name}"), |b| {
            b.iter(|| template.user(&question, Context::Gold, &[]).expect("rendered"));
        });
    }
}

fn pack(c: &mut Criterion) {
    let mut group = c.benchmark_group("packing");
    group.sample_size(20);
    for count in [8, 1000, 100_000] {
        let mut rng = Rng::new(1, 1);
        let lengths: Vec<usize> = (0..count).map(|_| 180 + rng.below(400) as usize).collect();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("{count} samples"), |b| b.iter(|| packing::pack(&lengths, 2048).expect("packed")));
    }
}

criterion_group!(benches, tokenizer, templates, pack);
criterion_main!(benches);
