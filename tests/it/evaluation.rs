//! `irori compare`, `irori eval --rescore`: the program on result files, good and hostile.

use assert_cmd::Command;
use serde_json::{Value, json};
use std::{fs, path::Path};

fn irori() -> Command {
    Command::cargo_bin("irori").expect("the program is built")
}

/// A result file of `n` questions that answers `says(i)`; the right answer is i mod 4.
fn result(path: &Path, n: usize, says: impl Fn(usize) -> &'static str) {
    let items: Vec<Value> = (0..n)
        .map(|i| {
            let right = ["a", "b", "c", "d"][i % 4];
            json!({"question": format!("問題{i}"), "choices": "a 一\nb 二\nc 三\nd 四", "correct_answer": right,
                   "predicted_answer": says(i), "is_correct": says(i) == right, "response": format!("Answer: {}", says(i)),
                   "retrieved_docs_count": 0, "file_name": format!("{}_{i}", if i % 2 == 0 { "金商法" } else { "薬機法" }),
                   "references": []})
        })
        .collect();
    fs::write(path, json!({"config": {"top_k": 3}, "summary": {}, "results": items}).to_string()).expect("written");
}

fn failure(args: &[&str], dir: &Path, code: i32) -> String {
    let out = irori().args(args).current_dir(dir).output().expect("runs");
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "{args:?}: {text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

#[test]
fn comparison_in_every_form() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path();
    result(&at.join("base.json"), 40, |_| "a");
    result(&at.join("cand.json"), 44, |i| ["a", "b", "c", "d"][i % 4]);
    let out = irori().args(["compare", "base.json", "cand.json", "--json"]).current_dir(at).output().expect("runs");
    assert!(out.status.success());
    let v: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!((&v["pairs"], &v["table"]["won"], &v["candidate"]["unpaired"]), (&json!(40), &json!(30), &json!(4)));
    // 30 won and none lost: 2·2^−30.
    assert!((v["p_value"].as_f64().expect("p") / 2f64.powi(-29) - 1.0).abs() < 1e-9);
    assert!(v["baseline"]["warning"].as_str().expect("collapsed").contains("40 of 40 answers are \"a\""));
    for (file, holds) in
        [("r.html", "</html>"), ("r.md", "# cand against base"), ("r.txt", "30"), ("r.json", "\"pairs\": 40")]
    {
        irori().args(["compare", "base.json", "cand.json", "--output", file]).current_dir(at).assert().success();
        assert!(fs::read_to_string(at.join(file)).expect("written").contains(holds), "{file}");
    }
    assert!(failure(&["compare", "base.json", "cand.json", "--output", "r.md"], at, 2).contains("--force"));
    assert!(failure(&["compare", "base.json", "cand.json", "--output", "r.pdf"], at, 2).contains(".html"));
    assert!(
        failure(&["compare", "base.json", "cand.json", "--output", "no/r.md"], at, 2).contains("no does not exist")
    );
}

#[test]
fn hostile_results_are_errors() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path();
    result(&at.join("good.json"), 4, |_| "a");
    for (text, says) in [
        ("", "not valid JSON"),
        ("{\"results\": [", "not valid JSON"),
        ("{\"results\": [{\"question\": 3}]}", "results[0], field `question`"),
        ("{\"results\": []}", "is empty"),
        ("null", "expected an evaluation result"),
    ] {
        fs::write(at.join("bad.json"), text).expect("written");
        let e = failure(&["compare", "good.json", "bad.json"], at, 1);
        assert!(e.starts_with("error: bad.json") && e.contains(says), "{e}");
        let e = failure(&["eval", "--rescore", "bad.json", "--output", "new.json"], at, 1);
        assert!(e.contains("bad.json") && !at.join("new.json").exists(), "{e}");
    }
    assert!(failure(&["compare", "good.json", "none.json"], at, 1).contains("cannot read none.json"));
    let other = json!({"results": [{"question": "別", "correct_answer": "a", "predicted_answer": "a"}]});
    fs::write(at.join("other.json"), other.to_string()).expect("written");
    assert!(failure(&["compare", "good.json", "other.json"], at, 1).contains("no question in common"));
    assert!(failure(&["eval", "--output", "x.json"], at, 2).contains("--data"));
    assert!(
        failure(&["eval", "--output", "x.json", "--data", "good.json", "--samples", "0"], at, 2).contains("samples")
    );
    assert!(failure(&["eval", "--output", "x.json", "--data", "good.json"], at, 2).contains("--model: is missing"));
    assert!(failure(&["generate", "--prompt", " ", "--model", "x"], at, 2).contains("the prompt is empty"));
}

#[test]
fn stored_responses_are_read_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path();
    result(&at.join("old.json"), 8, |_| "a");
    let mut old: Value = serde_json::from_slice(&fs::read(at.join("old.json")).expect("read")).expect("JSON");
    old["results"][2]["response"] = "**回答（1文字のみ）：ｃ**\n回答（1文".into();
    old["results"][3]["response"] = "".into();
    fs::write(at.join("old.json"), old.to_string()).expect("written");
    let out =
        irori().args(["eval", "--rescore", "old.json", "--output", "new.json"]).current_dir(at).output().expect("runs");
    let said = String::from_utf8_lossy(&out.stderr);
    let wanted =
        "7 of 8 responses are read again, 1 of them differently; kept: 1 without a stored response; accuracy was 2/8";
    assert!(out.status.success() && said.contains(wanted), "{said}");
    let new: Value = serde_json::from_slice(&fs::read(at.join("new.json")).expect("read")).expect("JSON");
    assert_eq!(new["results"][2]["predicted_answer"], "c");
    assert_eq!(new["results"][2]["previous_answer"], "a");
    assert_eq!(new["results"][3]["predicted_answer"], "a", "there is nothing to read it from again");
    assert_eq!((&new["summary"]["correct_count"], &new["summary"]["total_count"]), (&json!(3), &json!(8)));
    assert_eq!(new["config"]["top_k"], 3);
    // The file that is read is replaced only where that is said, and then as a whole.
    let before = fs::read(at.join("old.json")).expect("read");
    let said = failure(&["eval", "--rescore", "old.json", "--output", "old.json"], at, 2);
    assert!(said.contains("--force") && fs::read(at.join("old.json")).expect("read") == before, "{said}");
    let said = failure(&["eval", "--rescore", "old.json", "--output", "x.json", "--permute"], at, 2);
    assert!(said.contains("--permute"), "{said}");
    irori()
        .args(["eval", "--rescore", "old.json", "--output", "old.json", "--force"])
        .current_dir(at)
        .assert()
        .success();
    let replaced: Value = serde_json::from_slice(&fs::read(at.join("old.json")).expect("read")).expect("JSON");
    assert_eq!(replaced["results"], new["results"]);
}

#[test]
fn only_results_of_the_same_questions_are_compared() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path();
    result(&at.join("base.json"), 12, |_| "a");
    let base: Value = serde_json::from_slice(&fs::read(at.join("base.json")).expect("read")).expect("JSON");
    let candidate = |change: &dyn Fn(&mut Value)| {
        let mut file = base.clone();
        change(&mut file);
        fs::write(at.join("cand.json"), file.to_string()).expect("written");
    };
    type Change = Box<dyn Fn(&mut Value)>;
    let set =
        |field: &'static str, value: Value| -> Change { Box::new(move |f| f["results"][3][field] = value.clone()) };
    for (change, wanted) in [
        (set("question", "別の問題".into()), "the questions are"),
        (set("choices", "a 一\nb 二\nc 三\nd 五".into()), "the choice \"四\" is in base only"),
        (set("correct_answer", "a".into()), "the right choice \"四\" in one and \"一\" in the other"),
        (set("choices", "a 四\nb 一\nc 二\nd 三".into()), "the right choice \"四\" in one and \"三\" in the other"),
    ] {
        candidate(&*change);
        let said = failure(&["compare", "base.json", "cand.json", "--output", "never.html"], at, 1);
        assert!(
            said.contains("base, results[3] (薬機法_3) and cand, results[3] (薬機法_3)") && said.contains(wanted),
            "{said}"
        );
        assert!(!at.join("never.html").exists());
    }
    candidate(&|f| {
        f["results"][3]["choices"] = "a 四\nb 一\nc 二\nd 三".into();
        f["results"][3]["correct_answer"] = "a".into();
        f["results"][3]["predicted_answer"] = "unknown".into();
        for i in 5..12 {
            f["results"][i]["file_name"] = format!("新_{i}").into();
        }
        f["config"] = json!({"top_k": 3, "method": "loglik", "prompt": "letter"});
    });
    let out = irori().args(["compare", "base.json", "cand.json"]).current_dir(at).output().expect("runs");
    let said = String::from_utf8_lossy(&out.stdout);
    for wanted in [
        "5 questions in both",
        "7 questions of the candidate have no partner and are left out: 新_5, 新_6, 新_7, 新_8, 新_9 and 2 more",
        "1 answers of the candidate are unknown and count as not right",
        "the two were asked differently: method (not said / loglik), prompt (not said / letter)",
        "1 pairs show their choices in different orders",
    ] {
        assert!(out.status.success() && said.contains(wanted), "{wanted} in {said}");
    }
}
