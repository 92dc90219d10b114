use super::{pairs::pair, *};
use crate::{
    data::questions::choices,
    eval::result::tests::{item, of_size, recorded},
};

fn result(items: Vec<Item>) -> EvalResult {
    EvalResult { results: items, ..EvalResult::default() }
}

fn with(item: Item, texts: [&str; 4]) -> Item {
    Item { choices: choices::format(&texts), texts: texts.map(str::to_owned).into(), ..item }
}

#[test]
fn questions_of_different_sizes_are_compared_together() {
    let five = |said| of_size(5, "民法_5", 4, said);
    let base = result(vec![of_size(2, "民法_2", 1, Some(0)), five(Some(4)), item("民法_4", 0, None)]);
    let cand = result(vec![five(Some(0)), of_size(2, "民法_2", 1, Some(1)), of_size(3, "民法_3", 0, None)]);
    let c = compare(["x", "y"], &base, &cand).unwrap();
    assert_eq!((c.pairs, c.baseline.unpaired, c.candidate.unpaired), (2, 1, 1));
    assert_eq!(
        (&c.baseline.only_here[..], &c.candidate.only_here[..]),
        (&["民法_4".into()][..], &["民法_3".into()][..])
    );
    assert_eq!(c.letters, ["a", "b", "c", "d", "e", "unknown"]);
    assert_eq!((&c.baseline.predicted, &c.candidate.truth), (&vec![1, 0, 0, 0, 1, 0], &vec![0, 1, 0, 0, 1, 0]));
    assert_eq!(c.candidate.confusion[4], [1, 0, 0, 0, 0, 0]);
    assert_eq!(c.candidate.confusion.len(), 5);
    assert!((c.chance - (0.5 + 0.2) / 2.0).abs() < 1e-12);
    assert_eq!(c.table, Paired { both: 0, lost: 1, won: 1, neither: 0 });
    assert_eq!((c.won[0].correct, c.lost[0].baseline, c.lost[0].candidate), ("b", "e", "a"));
    let twos = result(vec![of_size(2, "民法_2", 1, Some(0))]);
    let c = compare(["x", "x"], &twos, &twos).unwrap();
    assert_eq!((c.letters.len(), c.chance, c.baseline.confusion.len()), (3, 0.5, 2));
}

#[test]
fn pairs_by_question_even_when_permuted() {
    let turned = with(item("金商法_1", 1, Some(1)), ["四", "一", "二", "三"]);
    let base = result(vec![item("金商法_1", 0, Some(2)), item("薬機法_2", 3, Some(3)), item("only", 0, None)]);
    let cand = result(vec![item("薬機法_2", 3, Some(0)), turned, item("other", 0, None)]);
    let c = compare(["x", "y"], &base, &cand).unwrap();
    assert_eq!((c.pairs, c.permuted, c.baseline.unpaired, c.candidate.unpaired), (2, 1, 1, 1));
    assert_eq!(c.table, Paired { both: 0, lost: 1, won: 1, neither: 0 });
    assert_eq!((c.won[0].file_name.as_str(), c.won[0].correct), ("金商法_1", "b"));
    assert_eq!(c.lost[0].law, "薬機法");
    assert_eq!(c.laws.len(), 2);
    assert_eq!(c.p_value, 1.0);
}

#[test]
fn repeated_questions_pair_once_each_and_same_orders_first() {
    let turned = with(item("x", 1, Some(1)), ["四", "一", "二", "三"]);
    let a = result(vec![item("x", 0, Some(0)), turned.clone()]);
    let b = result(vec![turned, item("x", 0, Some(0))]);
    assert_eq!(pair(&File::new("a", &a.results), &File::new("b", &b.results)).unwrap().0, [(0, 1), (1, 0)]);
    let c = compare(["a", "b"], &a, &b).unwrap();
    assert_eq!(
        (c.permuted, c.baseline.repeated, c.candidate.repeated),
        (0, vec!["x (2 times)".into()], vec!["x (2 times)".into()])
    );
    // The name is not one question's in the baseline, so another question of that name is another question.
    let other = result(vec![with(item("x", 0, None), ["別", "二", "三", "四"])]);
    assert_eq!(compare(["a", "b"], &a, &other).unwrap().pairs, 0);
}

#[test]
fn what_is_not_the_same_question_is_refused_by_name_and_number() {
    let refused = |base: Item, cand: Item| {
        let (base, cand) = (result(vec![item("y", 0, None), base]), result(vec![cand]));
        compare(["b.json", "c.json"], &base, &cand).map(drop).map_err(|e| e.to_string())
    };
    let nameless = |item: Item| Item { file_name: String::new(), ..item };
    let x = || item("x", 0, None);
    let wide = with(x(), ["一", " 二", "三\n", "四"]);
    assert_eq!(refused(x(), wide), Ok(()), "white space is no difference");
    for (other, wanted) in [
        (item("x", 1, None), "the right choice \"一\" in one and \"二\" in the other"),
        (with(item("x", 0, None), ["四", "一", "二", "三"]), "the right choice \"一\" in one and \"四\" in the other"),
        (with(x(), ["一", "二", "三", "五"]), "the choice \"四\" is in b.json only"),
        (of_size(3, "x", 0, None), "the choice \"四\" is in b.json only"),
        (of_size(5, "x", 0, None), "the choice \"五\" is in c.json only"),
        (Item { question: "別".into(), ..x() }, "the questions are \"xの問題\" and \"別\""),
    ] {
        let e = refused(x(), other).unwrap_err();
        assert!(e.starts_with("b.json, results[1] (x) and c.json, results[0] (x): ") && e.contains(wanted), "{e}");
    }
    let e = refused(nameless(x()), nameless(item("x", 1, None))).unwrap_err();
    assert!(e.starts_with("b.json, results[1] and c.json, results[0]: the same question"), "{e}");
    // Without the texts of the choices, their letters are all there is to go by.
    let bare = |right| Item { texts: Vec::new(), ..item("x", right, None) };
    assert_eq!(refused(bare(2), bare(2)), Ok(()));
    assert!(refused(bare(2), bare(1)).unwrap_err().contains("\"c\" in one and \"b\""));
    assert!(refused(x(), bare(0)).unwrap_err().contains("is in b.json only"));
}

#[test]
fn what_the_files_were_made_with_is_said_where_it_differs() {
    let file = |config: serde_json::Value| EvalResult {
        config: serde_json::from_value(config).unwrap(),
        ..result(vec![item("x", 0, None)])
    };
    let a = file(
        serde_json::json!({"method": "loglik", "prompt": "letter", "adapter": null, "irori_version": "1", "top_k": null}),
    );
    let b = file(serde_json::json!({"method": "generate", "prompt": "letter", "adapter": "run", "irori_version": "2"}));
    let c = compare(["a", "b"], &a, &b).unwrap();
    let said: Vec<(&str, bool)> = c.differences.iter().map(|d| (d.field.as_str(), d.asking)).collect();
    assert_eq!(said, [("adapter", false), ("method", true)]);
    assert_eq!(compare(["a", "a"], &a, &a).unwrap().differences, []);
}

#[test]
fn an_unknown_answer_is_not_right() {
    let of = |said: [Option<usize>; 4]| {
        result(said.iter().zip(["p", "q", "r", "s"]).map(|(said, name)| item(name, 0, *said)).collect())
    };
    let c = compare(["a", "b"], &of([None, None, Some(0), Some(1)]), &of([None, Some(0), None, None])).unwrap();
    assert_eq!(c.table, Paired { both: 0, lost: 1, won: 1, neither: 2 });
    assert_eq!((c.baseline.unknown, c.candidate.unknown), (2, 3));
    assert_eq!(c.candidate.confusion[0], [1, 0, 0, 0, 3]);
}

#[test]
fn the_recorded_pair() {
    let (Some(small), Some(large)) =
        (recorded("qwen3_8b_norag_direct_dev27.json"), recorded("qwen3_8b_rag_cot_140.json"))
    else {
        return;
    };
    let c = compare(["direct", "rag"], &small, &large).unwrap();
    assert_eq!((c.pairs, c.baseline.unpaired, c.candidate.unpaired, c.permuted), (27, 0, 113, 0));
    assert_eq!(c.baseline.accuracy.count, 13);
    assert_eq!(c.table.total(), 27);
    assert_eq!(c.candidate.accuracy.count, c.table.both + c.table.won);
    eprintln!("{:?} {} {}", c.table, c.p_value, c.verdict());
    assert_eq!(c.laws.iter().map(|l| l.law.as_str()).collect::<Vec<_>>(), ["金商法", "薬機法", "借地借家法"]);
    let whole = compare(["rag", "rag"], &large, &large).unwrap();
    assert_eq!((whole.pairs, whole.table.won, whole.table.lost), (140, 0, 0));
}
