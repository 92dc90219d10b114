//! Responses as models write them, and what is read from them.

use super::*;

#[track_caller]
fn is(text: &str, letter: &str) {
    assert_eq!(crate::eval::label(parse(text, 4)), letter, "{text:?}");
}

#[test]
fn answer_lines() {
    for text in [
        "Answer: c",
        "answer：C",
        "Reasoning: 1. b は誤り\n\nAnswer: c",
        "**Answer: c**",
        "**Answer:** c",
        "Answer: (c)",
        "Answer: [c]",
        "The answer is c.",
        "Final Answer: \\boxed{c}",
        "回答：c",
        "回答（1文字のみ）: c",
        "回答（１文字のみ）：ｃ",
        "回答(c)",
        "【回答】c",
        "**回答：c**  ",
        "回答は選択肢cです。",
        "回答: 3",
        "回答：３",
        "回答：③",
        "回答は3番です",
        "回答：ⓒ",
        "Answer: c 株券等の売買に係るコール・オプションの取得",
        "Answer: c\nAnswer: c",
        "## 回答\n\n**c**",
        "Answer:\nc",
        "Answer: c, because d is wrong",
        "<think>\nAnswer: a\n</think>\n\nAnswer: c",
    ] {
        is(text, "c");
    }
}

#[test]
fn right_answer_lines() {
    for text in [
        "したがって、**正解は b** です。",
        "正解が b である",
        "正解：選択肢 b",
        "### **正解：B**",
        "正解は「b」です。",
        "正しい選択肢は「b 民法」です。",
        "正解は２です",
        "- **正解：選択肢 b**\n- **理由**：所有権を失う",
        "答えはbです",
    ] {
        is(text, "b");
    }
    // An answer line outranks what a reasoning considers before it.
    is("正解は b か。\nいや、正解は a である。\n\nAnswer: a", "a");
}

#[test]
fn last_lines() {
    for text in
        ["d", "ｄ", "D.", "４", "④", "（d）", "**（d）**", "理由…\n\nd", "$$\n\\boxed{d}\n$$", "選択肢d", "dです。"]
    {
        is(text, "d");
    }
    is("d 株券等の売買に係るプット・オプションの付与", "d");
    is("d. 株券等", "d");
}

#[test]
fn cut_off_lines_are_passed_over() {
    is("回答（1文字のみ）: b\n回答（1文字のみ）: b\n回答（1文字", "b");
    is("回答（1文字のみ）: b\n回答（1文字のみ）", "b");
    is("回答（1文字のみ）: b\n回答", "b");
}

#[test]
fn prose_is_no_answer() {
    for text in [
        "",
        "   \n\n",
        "---",
        "回答",
        "回答（1文字のみ）",
        "回答は a, b, c, d のいずれか1文字のみ。",
        "回答は1つ選んでください",
        "回答 4.5%",
        "正解は **b** と **d** が正しい可能性があります。",
        "正解は b または d",
        "選択肢aとcです。",
        "Answer: a company that files a report",
        "Answer: apple",
        "Answer: e",
        "Answer: 5",
        "Answer: 12",
        "正解は a ではない",
        "Answer: a\nAnswer: unknown",
        "回答: 不明",
        "d は誤り",
        "a quick look",
        "<think>\nAnswer: a",
        "12",
        "🏮",
        "(",
        "Answer: (",
        "Answer: ()",
        "回答（",
    ] {
        is(text, "unknown");
    }
}

/// Every form in which a choice may be named, `{}` standing for it.
const FORMS: [&str; 12] = [
    "{}",
    "Answer: {}",
    "**Answer: {}**",
    "Answer:\n{}",
    "回答：{}",
    "【回答】{}",
    "（{}）",
    "正解は「{}」です。",
    "回答は選択肢{}です",
    "\\boxed{{}}",
    "Answer: {}, because the others are wrong",
    "<think>\nAnswer: a\n</think>\n\nAnswer: {}",
];

#[test]
fn the_choices_are_those_of_the_question() {
    for choices in 2..=10 {
        for (i, choice) in Choice::ALL.into_iter().enumerate() {
            let circled = char::from_u32('①' as u32 + i as u32).unwrap();
            let wide = char::from_u32('ａ' as u32 + i as u32).unwrap();
            let names = [choice.to_string(), choice.to_string().to_uppercase(), (i + 1).to_string()];
            for name in names.into_iter().chain([circled.to_string(), wide.to_string()]) {
                for form in FORMS {
                    let text = form.replacen("{}", &name, 1);
                    assert_eq!(parse(&text, choices), choice.within(choices), "{text:?} of {choices}");
                }
            }
        }
    }
}

#[test]
fn words_of_one_letter_are_no_choice_among_ten() {
    for text in [
        "Answer: I think that it depends",
        "I think b",
        "Answer: I’d say so",
        "Answer: I'm not sure",
        "Answer: e.g. the first",
        "Answer: i.e. none",
        "Answer: b または j",
        "Answer: k",
        "回答：11",
        "回答は10個あります",
        "回答 10.5%",
        "10件",
    ] {
        assert_eq!(parse(text, 10), None, "{text:?}");
    }
    for (text, letter) in [
        ("Answer: i", "i"),
        ("Answer: I, because of article 9", "i"),
        ("Answer: i is right", "i"),
        ("e", "e"),
        ("回答：10番", "j"),
        ("j 株券等", "j"),
    ] {
        assert_eq!(crate::eval::label(parse(text, 10)), letter, "{text:?}");
    }
}

#[test]
fn exact_letters() {
    let c = Choice::from_char('c');
    for text in ["c", " Ｃ ", "3", "③"] {
        assert_eq!(exact(text), c, "{text}");
    }
    for text in ["j", "10", "⑩", "１０", "ｊ", "(J)"] {
        assert_eq!(exact(text), Choice::from_index(9), "{text}");
    }
    for text in ["cc", "", "k", "11", "0", "01", "10.5", "100"] {
        assert_eq!(exact(text), None, "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_parsed_without_panic(text in "[ -~ａ-ｋ０-９①-⑪回答正解は：（）【】*\n、a-k]{0,60}") {
        for choices in 2..=10 {
            assert!(parse(&text, choices).is_none_or(|c| c.index() < choices));
        }
        let _ = exact(&text);
    }
}

#[test]
fn what_says_two_things_says_none() {
    for text in [
        "Answer: b\nAnswer: c",
        "Answer: a\n正解は b です",
        "正解は a です。\n…\n正解は b です。",
        "Answer: c\n\nd",
        "Answer: c\n\nAnswer: c または d",
        "Answer: c\n\n正解は c ではない",
        "a\nb\nc\nd",
        "Answer: c or maybe d",
        "Answer: c (or d)",
        "Answer: c; d",
        "Answer: c d",
        "Answer: c|d",
        "Answer: c → d",
        "Answer: c, but d is possible too",
        "Answer: either c or d",
        "Answer: c、またはd",
        "Answer: c あるいは d",
        "回答：ｃもしくはｄ",
        "正解は c、d も正しい",
        "答えは c ではなく d",
        "答えは c か d のどちらか",
        "Answer: c?",
        "Is the answer c？",
        "c または d",
        "c, maybe d",
        "c d",
        "c の可能性があるが断定できない",
        "c it depends",
        "答えがcかどうかは不明",
        "正解は c とする見解もある",
        "正解は c の可能性がある",
        "c が正しいとはいえない",
    ] {
        is(text, "unknown");
    }
}

#[test]
fn what_is_denied_or_marked_as_wrong_is_no_answer() {
    for text in [
        "Answer: not c",
        "The answer is not c.",
        "not c",
        "Answer: c is incorrect",
        "Answer: c cannot be right",
        "不正解は c です",
        "誤った回答は c",
        "未回答: c",
        "Wrong answer: c",
        "正解は c 以外",
        "c は間違い",
        "答えは c とはいえない",
        "there is no answer c",
        "No answer: c",
        "not answer c",
    ] {
        is(text, "unknown");
    }
    for text in [
        "Answer: c\n不正解は a です",
        "Answer: c, not d",
        "Answer: c, because d is wrong",
        "正解は c です。a は誤りで、d も誤りです。",
        "Answer: c\n\n他の回答 a は誤りです。",
        "回答: c（d は誤り）",
        "Answer: c. d is wrong.",
        "Answer: c (see section 5(b))",
        "Answer: c 法第5条(b)の届出",
        "The answer is: option c",
        "選択肢 c を選びます。",
        "cが正しい。",
    ] {
        is(text, "c");
    }
}

#[test]
fn a_response_that_was_cut_off_is_read_as_far_as_it_is_finished() {
    let cut = |text| Response { text, choices: 4, texts: &[], ended: false, thinking: false }.answer();
    for text in ["Answer: c", "c", "c 株券等の売買に", "Answer: c, because", "考える。\n\nAnswer: c", "正解は c", "1."]
    {
        assert_eq!(cut(text), None, "{text:?}");
    }
    for text in [
        "Answer: c\n",
        "Answer: c\nThe reason",
        "c\n\nExpl",
        "Answer: c. The rea",
        "正解は c です。なぜ",
        "回答: c\n回答: c\n回答",
    ] {
        assert_eq!(cut(text), Choice::from_char('c'), "{text:?}");
    }
    assert_eq!(cut("Answer: c. d is also"), Choice::from_char('c'), "the second sentence is not finished");
}

#[test]
fn a_thought_that_the_prompt_began_is_no_answer() {
    let thinking = |text| Response { text, choices: 4, texts: &[], ended: true, thinking: true }.answer();
    assert_eq!(thinking("Answer: c"), None);
    assert_eq!(thinking("Answer: a\n</think>\n\nAnswer: c"), Choice::from_char('c'));
    assert_eq!(thinking("x\n</think>\n\n<think>\nAnswer: c"), None);
}

#[test]
fn a_choice_is_known_by_its_text() {
    let texts = ["Call a friend, b or c", "Sell in May", "it depends", "株券等の オプション"].map(str::to_owned);
    let read = |text| Response { text, choices: 4, texts: &texts, ended: true, thinking: false }.answer();
    let letter = |text| crate::eval::label(read(text));
    assert_eq!(letter("a Call a friend, b or c"), "a", "the letters in a choice's own text name no other choice");
    assert_eq!(letter("Answer: a call a friend, b or c."), "a");
    assert_eq!(letter("b Sell in"), "b");
    assert_eq!(letter("b sell everything"), "unknown");
    assert_eq!(letter("c it depends"), "c");
    assert_eq!(letter("d it depends"), "unknown");
    assert_eq!(letter("Answer: d (it depends)"), "unknown", "the letter of one choice and the text of another");
    assert_eq!(letter("Answer: c (it depends)"), "c");
    assert_eq!(letter("d 株券等のオプション"), "d");
}
