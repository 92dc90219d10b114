//! What no golden can show: lines of faults, templates that would not end, and what is left behind.

use super::*;

fn render(source: &str) -> Result<String, Fault> {
    let variables = Variables::from([("n".into(), Value::Int(3)), ("nothing".into(), Value::None)]);
    Template::parse(source)?.render(&variables)
}

#[test]
fn a_fault_names_its_line() {
    for (source, line, message) in [
        ("\n{% if %}", 2, "Expected an expression"),
        ("a\n{{ n.x.y }}", 2, "'int object' has no attribute 'x'"),
        ("{% for i in [1] %}\n\n{{ q + 1 }}{% endfor %}", 3, "'q' is undefined"),
        ("\n\n{{ n|nope }}", 3, "No filter named 'nope'."),
        ("\n{% block x %}{% endblock %}", 2, "irori does not render the tag `block`"),
        ("{# a\n\n #}{{ raise_exception('no\nsystem') }}", 3, "no\nsystem"),
        ("{{ 1 }}\r\n{{ 'a' + 1 }}", 2, "can only concatenate str (not \"int\") to str"),
        ("{% macro m() %}\n{{ 1 // 0 }}{% endmacro %}\n{{ m() }}", 2, "division by zero"),
        ("\n{{ ['a']|wordwrap }}", 2, "irori does not render the filter `wordwrap`"),
        ("{{ 'a\n' }}{{ ) }}", 2, "unexpected ')'"),
    ] {
        let fault = render(source).unwrap_err();
        assert_eq!((fault.line, fault.message.as_str()), (line, message), "{source}");
    }
}

/// On a thread of two megabytes, as those that encode records are.
#[test]
fn no_template_hangs_or_overflows() {
    let parens = |n: usize| format!("{{{{ {}1{} }}}}", "(".repeat(n), ")".repeat(n));
    let nested = |n: usize| "{% if 1 %}".repeat(n) + "x" + &"{% endif %}".repeat(n);
    assert_eq!(render(&parens(40)).unwrap(), "1");
    assert_eq!(render(&nested(90)).unwrap(), "x");
    let around = |n: usize, open: &str, close: &str| format!("{{{{ {}1{} }}}}", open.repeat(n), close.repeat(n));
    let full = format!(
        "{}{{{{ {}1{} }}}}{}",
        "{% if 1 %}".repeat(60),
        "[".repeat(30),
        "]".repeat(30),
        "{% endif %}".repeat(60)
    );
    assert!(render(&full).unwrap().contains("[1]"));
    let refused = [
        parens(10_000),
        nested(10_000),
        around(10_000, "[", "]"),
        around(10_000, "-", ""),
        around(10_000, "not ", ""),
        around(10_000, "n + ", ""),
        around(10_000, "n if n else ", ""),
        format!("{{{{ n{} }}}}", "|string".repeat(10_000)),
        format!("{{{{ n{} }}}}", ".x".repeat(10_000)),
        format!("{{{{ n{} }}}}", "[0]".repeat(10_000)),
        "{% macro f(n) %}{% if 1 %}{% for i in [1] %}{{ [f(n)]|map('upper')|list }}{% endfor %}{% endif %}{% endmacro %}{{ f(1) }}".into(),
        "{% for i in [[]] recursive %}{{ loop([[]]) }}{% endfor %}".into(),
        "{% for i in range(100000) %}{% for j in range(100000) %}{{ i }}{% endfor %}{% endfor %}".into(),
        "{% set ns = namespace(a='aaaaaaaa') %}{% for i in range(99) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}".into(),
        "{% set ns = namespace(a=[1]) %}{% for i in range(99) %}{% set ns.a = ns.a + ns.a %}{% endfor %}".into(),
        "{% set ns = namespace(a=1) %}{% set ns.b = [ns] %}{{ ns }}".into(),
        "{{ 'a' * 10 ** 12 }}".into(),
        "{{ 'a'.ljust(10 ** 12) }}{{ '%1000000000d' % 1 }}".into(),
        "{{ 9 ** 9 ** 9 }}".into(),
    ];
    for source in refused {
        let fault = render(&source).unwrap_err();
        assert!(fault.line > 0, "{}: {}", &source[..source.len().min(60)], fault.message);
    }
}

/// What a template builds level by level is as deep as it has steps for: it is dropped without a recursion, and printed,
/// compared, hashed, ordered and written as JSON only so far.
#[test]
fn values_of_any_depth_are_dropped_and_refused() {
    let deep = |n: usize, new: &str, then: &str| {
        let (outer, inner) = (n.div_ceil(1000), n.min(1000));
        format!(
            "{{% set ns = namespace(a=[], b=[], c=1) %}}{{% for i in range({outer}) %}}{{% for j in range({inner}) %}}\
             {new}{{% endfor %}}{{% endfor %}}{then}"
        )
    };
    let list = "{% set ns.a = [ns.a] %}{% set ns.b = [ns.b] %}";
    let chained = "{% set last = namespace(n=ns.a) %}{% set ns.a = last %}";
    let forward = "{% set next = namespace(n=1) %}{% set last = ns.c %}{% if i + j %}{% set last.n = next %}{% else %}\
                   {% set ns.b = next %}{% endif %}{% set ns.c = next %}";
    let dicts = "{% set ns.a = {'k': ns.a} %}";
    let tuples = "{% set ns.a = (ns.a,) %}{% set ns.b = (ns.b,) %}";
    let held = "{% set ns = namespace(a=1) %}{% macro h(x) %}{% set ns.a = caller %}{% endmacro %}\
                {% macro g(x) %}{% call h() %}{{ x }}{% endcall %}{% endmacro %}\
                {% for i in range(99999) %}{{ g(ns.a) }}{% endfor %}x";
    assert_eq!(render(held).unwrap(), "x");
    for (n, new, then) in [
        (1_000_000, list, "x"),
        (1_000_000, dicts, "x"),
        (1_000_000, tuples, "x"),
        (500_000, chained, "x"),
        (300_000, forward, "x"),
        (150, list, "{{ ns.a == ns.b }}{{ ns.a|tojson }}"),
    ] {
        let text = render(&deep(n, new, then));
        assert!(text.as_ref().is_ok_and(|t| t.starts_with(if n == 150 { "True[[[" } else { "x" })), "{new}: {text:?}");
    }
    let walks = [
        "{{ ns.a }}",
        "{{ ns.a == ns.b }}",
        "{{ ns.a < ns.b }}",
        "{{ ns.a|tojson }}",
        "{{ ns.a in [ns.b] }}",
        "{{ {ns.a: 1} }}",
        "{{ [ns.a, ns.b]|unique|list }}",
        "{{ [ns.a, ns.b]|sort }}",
        "{{ ns.a|string }}",
        "{{ '%s' % [ns.a] }}",
        "{{ ns.a|pprint }}",
    ];
    for walk in walks {
        for new in [list, tuples] {
            assert!(render(&deep(100_000, new, walk)).is_err(), "{new} {walk}");
        }
    }
    // Not deep, but each twice in the next: comparing them takes 2^60 steps.
    let twice = "{% set ns.a = (ns.a, ns.a) %}{% set ns.b = (ns.b, ns.b) %}";
    let kept = "{% set ns.a = ns.a + ['a' * 9999999] %}";
    for (n, new, then) in [
        (60, twice, "{{ {1: 1}[ns.a] }}{{ {ns.a: 1} }}"),
        (99_999, kept, "x"),
        (9999, "{% set ns.a = [range(999999)|list, ns.a] %}", "x"),
    ] {
        let new = new.replace("[]", "()");
        let source = deep(n, &new, then);
        assert!(render(&source).is_err(), "{source}");
    }
}

#[test]
fn renderings_share_nothing() {
    let template =
        Template::parse("{% macro m() %}{{ n }}{% endmacro %}{{ m() }}{{ later }}{% set later = n %}").unwrap();
    let one = |n: i128| template.render(&Variables::from([("n".into(), Value::Int(n))])).unwrap();
    let texts: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || [one(n), one(n + 10)])).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(texts, ["0", "10", "1", "11", "2", "12", "3", "13"]);
}
