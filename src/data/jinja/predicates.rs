//! Jinja2's tests: what stands behind `is`.

use super::{
    access,
    args::Args,
    ast::{Binary, Compare, TestFn},
    fault::{Fault, Outcome},
    filters, methods, operators,
    shared::Shared,
    value::{Builtin, Value},
};

/// The test of that name.
pub fn find(name: &str) -> Option<TestFn> {
    Some(match name {
        "odd" => |v, a| remainder(v, &Value::Int(2), a, 1),
        "even" => |v, a| remainder(v, &Value::Int(2), a, 0),
        "divisibleby" => |v, a| {
            let [n] = a.bind("divisibleby", ["num"])?;
            let n = super::args::required(n, "divisibleby", "num")?;
            remainder(v, &n, &Args::default(), 0)
        },
        "defined" => |v, a| is(a, !matches!(v, Value::Undefined(_))),
        "undefined" => |v, a| is(a, matches!(v, Value::Undefined(_))),
        "filter" => |v, a| is(a, matches!(v, Value::Str(name) if filters::exists(name))),
        "test" => |v, a| is(a, matches!(v, Value::Str(name) if find(name).is_some())),
        "none" => |v, a| is(a, matches!(v, Value::None)),
        "boolean" => |v, a| is(a, matches!(v, Value::Bool(_))),
        "false" => |v, a| is(a, matches!(v, Value::Bool(false))),
        "true" => |v, a| is(a, matches!(v, Value::Bool(true))),
        "integer" => |v, a| is(a, matches!(v, Value::Int(_))),
        "float" => |v, a| is(a, matches!(v, Value::Float(_))),
        "lower" => |v, a| is(a, methods::is_cased(&v.text()?, char::is_lowercase, char::is_uppercase)),
        "upper" => |v, a| is(a, methods::is_cased(&v.text()?, char::is_uppercase, char::is_lowercase)),
        "string" => |v, a| is(a, v.as_text().is_some()),
        "mapping" => |v, a| is(a, matches!(v, Value::Dict(_))),
        "number" => |v, a| is(a, v.as_float().is_some()),
        "sequence" => |v, a| is(a, is_sequence(v)),
        "sameas" => sameas,
        "iterable" => |v, a| is(a, is_iterable(v)),
        "callable" => |v, a| is(a, is_callable(v)),
        "escaped" => |v, a| is(a, matches!(v, Value::Markup(_))),
        "in" => |v, a| compared(Compare::In, v, a),
        "==" | "eq" | "equalto" => |v, a| compared(Compare::Eq, v, a),
        "!=" | "ne" => |v, a| compared(Compare::Ne, v, a),
        ">" | "gt" | "greaterthan" => |v, a| compared(Compare::Gt, v, a),
        ">=" | "ge" => |v, a| compared(Compare::Ge, v, a),
        "<" | "lt" | "lessthan" => |v, a| compared(Compare::Lt, v, a),
        "<=" | "le" => |v, a| compared(Compare::Le, v, a),
        _ => return None,
    })
}

/// The answer of a test that takes no arguments.
fn is(args: &Args, answer: bool) -> Outcome<bool> {
    args.bind_positional::<0>("the test")?;
    Ok(answer)
}

fn compared(op: Compare, value: &Value, args: &Args) -> Outcome<bool> {
    let [other] = args.bind_positional("the test")?;
    let other = super::args::required(other, "the test", "other")?;
    operators::compare(op, value, &other)
}

fn remainder(value: &Value, divisor: &Value, args: &Args, wanted: i128) -> Outcome<bool> {
    args.bind_positional::<0>("the test")?;
    let rest = operators::binary(Binary::Mod, value, divisor)?;
    Ok(rest.equals(&Value::Int(wanted)))
}

/// Whether it has a length and items.
fn is_sequence(value: &Value) -> bool {
    // Of a dict the sandbox's `range` and undefined values Python says so too.
    let items = !matches!(value, Value::View(..) | Value::Loop(_));
    items && access::length(value).is_ok()
}

fn is_iterable(value: &Value) -> bool {
    matches!(value, Value::Iterator(_) | Value::View(..) | Value::Loop(_)) || is_sequence(value)
}

fn is_callable(value: &Value) -> bool {
    // An undefined value can be called, to say that it is undefined.
    matches!(
        value,
        Value::Undefined(_)
            | Value::Macro(_)
            | Value::Method(_)
            | Value::Builtin(_)
            | Value::Loop(_)
            | Value::Joiner(_)
    )
}

fn sameas(value: &Value, args: &Args) -> Outcome<bool> {
    let [other] = args.bind("sameas", ["other"])?;
    let other = super::args::required(other, "sameas", "other")?;
    match (value, &other) {
        (Value::None, Value::None) => Ok(true),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::Namespace(a), Value::Namespace(b)) => Ok(Shared::ptr_eq(a, b)),
        (Value::List(a), Value::List(b)) => Ok(Shared::ptr_eq(a, b)),
        (Value::Dict(a), Value::Dict(b)) => Ok(Shared::ptr_eq(a, b)),
        (Value::Macro(a), Value::Macro(b)) => Ok(Shared::ptr_eq(a, b)),
        (Value::Builtin(a), Value::Builtin(b)) if *a != Builtin::DictFromKeys => Ok(a == b),
        (a, b) if std::mem::discriminant(a) != std::mem::discriminant(b) => Ok(false),
        // Whether two equal numbers or texts are one object is Python's own affair.
        (a, _) => Err(Fault::unsupported(format!("`sameas` of {}", a.kind()))),
    }
}
