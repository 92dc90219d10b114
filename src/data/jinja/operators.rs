//! Python's operators.

use super::{
    access,
    ast::{Binary, Compare},
    fault::{Fault, Outcome},
    format,
    shared::{self, Shared},
    text,
    value::Value,
};
use std::cmp::Ordering;

/// The most items of a list that an operator makes.
const MOST_ITEMS: usize = 10_000_000;
/// Up to here a float holds every integer.
const EXACT: i128 = 1 << 53;

/// Whether two numbers are equal, an integer and a float compared exactly.
pub fn numbers_equal(a: &Value, b: &Value) -> bool {
    match (a.as_int(), b.as_int()) {
        (Some(a), Some(b)) => a == b,
        _ => compare_numbers(a, b) == Some(Some(Ordering::Equal)),
    }
}

/// `None` if one of them is no number, `Some(None)` if one is not a number.
fn compare_numbers(a: &Value, b: &Value) -> Option<Option<Ordering>> {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => Some(a.partial_cmp(b)),
        (Value::Float(a), _) => Some(compare_exactly(b.as_int()?, *a).map(Ordering::reverse)),
        (_, Value::Float(b)) => Some(compare_exactly(a.as_int()?, *b)),
        _ => Some(Some(a.as_int()?.cmp(&b.as_int()?))),
    }
}

fn compare_exactly(a: i128, b: f64) -> Option<Ordering> {
    if b.is_nan() {
        return None;
    }
    // Beyond 2^127 a saturated cast is still on the right side.
    let whole = b.trunc() as i128;
    Some(a.cmp(&whole).then_with(|| 0.0.partial_cmp(&b.fract()).unwrap_or(Ordering::Equal)))
}

fn refuse_undefined(a: &Value, b: &Value) -> Outcome<()> {
    match (a, b) {
        (Value::Undefined(message), _) | (_, Value::Undefined(message)) => Err(Fault::new(&**message)),
        _ => Ok(()),
    }
}

/// `a OP b` for an ordering; `None` where a NaN makes every ordering false.
pub fn order(a: &Value, b: &Value, sign: &str) -> Outcome<Option<Ordering>> {
    let _visit = shared::visit()?;
    refuse_undefined(a, b)?;
    match (a, b) {
        (Value::Str(a) | Value::Markup(a), Value::Str(b) | Value::Markup(b)) => Ok(Some(a.cmp(b))),
        (Value::List(a), Value::List(b)) | (Value::Tuple(a) | Value::Group(a), Value::Tuple(b) | Value::Group(b)) => {
            match a.iter().zip(b.iter()).find(|(a, b)| !a.equals(b)) {
                Some((a, b)) => order(a, b, sign),
                None => Ok(Some(a.len().cmp(&b.len()))),
            }
        }
        (Value::View(..), Value::View(..)) => Err(Fault::unsupported("an order of views of dicts")),
        _ => compare_numbers(a, b).ok_or_else(|| {
            let (a, b) = (a.kind(), b.kind());
            Fault::new(format!("'{sign}' not supported between instances of '{a}' and '{b}'"))
        }),
    }
}

/// `a OP b`.
pub fn compare(op: Compare, a: &Value, b: &Value) -> Outcome<bool> {
    let ordered = |sign, wanted: &[Ordering]| Ok(order(a, b, sign)?.is_some_and(|o| wanted.contains(&o)));
    match op {
        Compare::Eq => Ok(a.equals(b)),
        Compare::Ne => Ok(!a.equals(b)),
        Compare::Lt => ordered("<", &[Ordering::Less]),
        Compare::Le => ordered("<=", &[Ordering::Less, Ordering::Equal]),
        Compare::Gt => ordered(">", &[Ordering::Greater]),
        Compare::Ge => ordered(">=", &[Ordering::Greater, Ordering::Equal]),
        Compare::In => access::contains(b, a),
        Compare::NotIn => Ok(!access::contains(b, a)?),
    }
}

/// `a OP b` of arithmetic.
pub fn binary(op: Binary, a: &Value, b: &Value) -> Outcome<Value> {
    if let (Binary::Mod, Value::Str(pattern)) = (op, a) {
        return format::percent(pattern, b).map(Value::str);
    }
    if matches!(a, Value::Markup(_)) || matches!(b, Value::Markup(_)) {
        return markup(op, a, b);
    }
    refuse_undefined(a, b)?;
    let numbers = match (a.as_int(), b.as_int()) {
        (Some(a), Some(b)) => Some(integers(op, a, b)?),
        _ => match (a.as_float(), b.as_float()) {
            (Some(x), Some(y)) => Some(floats(op, x, y)?),
            _ => None,
        },
    };
    if let Some(number) = numbers {
        return Ok(number);
    }
    match (op, a, b) {
        (Binary::Add, Value::Str(a), Value::Str(b)) => {
            text::bounded(a.len() + b.len())?;
            Ok(Value::str([&**a, &**b].concat()))
        }
        (Binary::Add, Value::List(a), Value::List(b)) => joined(a, b).map(Value::List),
        (Binary::Add, Value::Tuple(a), Value::Tuple(b)) => joined(a, b).map(Value::Tuple),
        (Binary::Mul, Value::Str(s), n) | (Binary::Mul, n, Value::Str(s)) if n.as_int().is_some() => {
            text::repeated(s, n.as_int().unwrap_or(0)).map(Value::str)
        }
        (Binary::Mul, Value::List(items), n) | (Binary::Mul, n, Value::List(items)) if n.as_int().is_some() => {
            repeated(items, n.as_int().unwrap_or(0)).map(Value::List)
        }
        (Binary::Mul, Value::Tuple(items), n) | (Binary::Mul, n, Value::Tuple(items)) if n.as_int().is_some() => {
            repeated(items, n.as_int().unwrap_or(0)).map(Value::Tuple)
        }
        (Binary::Sub, Value::View(..), _) | (Binary::Sub, _, Value::View(..)) => {
            Err(Fault::unsupported("differences of views of dicts"))
        }
        _ => Err(Fault::new(match (op, a) {
            (Binary::Add, Value::Str(_) | Value::List(_) | Value::Tuple(_)) => {
                format!("can only concatenate {} (not \"{}\") to {}", a.kind(), b.kind(), a.kind())
            }
            _ => format!("unsupported operand type(s) for {}: '{}' and '{}'", sign(op), a.kind(), b.kind()),
        })),
    }
}

/// `+` of escaped texts: the other text is escaped.
fn markup(op: Binary, a: &Value, b: &Value) -> Outcome<Value> {
    match (op, a, b) {
        (Binary::Add, a, b) if a.as_text().is_some() && b.as_text().is_some() => {
            Ok(Value::Markup([&*escaped(a)?, &*escaped(b)?].concat().into()))
        }
        _ => Err(Fault::unsupported(format!("`{}` of texts that are marked as safe", sign(op)))),
    }
}

/// The text with the five characters of HTML escaped, unless it is escaped already.
pub fn escaped(value: &Value) -> Outcome<String> {
    let text = value.text()?;
    if matches!(value, Value::Markup(_)) {
        return Ok(text.to_string());
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn joined(a: &[Value], b: &[Value]) -> Outcome<Shared<Vec<Value>>> {
    if a.len() + b.len() > MOST_ITEMS {
        return Err(Fault::unsupported("lists of more than ten million items"));
    }
    Ok(Shared::new(a.iter().chain(b).cloned().collect()))
}

fn repeated(items: &[Value], n: i128) -> Outcome<Shared<Vec<Value>>> {
    let n = usize::try_from(n.max(0)).unwrap_or(usize::MAX);
    if items.len().saturating_mul(n) > MOST_ITEMS {
        return Err(Fault::unsupported("lists of more than ten million items"));
    }
    let n = if items.is_empty() { 0 } else { n };
    Ok(Shared::new(std::iter::repeat_n(items, n).flatten().cloned().collect()))
}

fn sign(op: Binary) -> &'static str {
    match op {
        Binary::Add => "+",
        Binary::Sub => "-",
        Binary::Mul => "*",
        Binary::Div => "/",
        Binary::FloorDiv => "//",
        Binary::Mod => "%",
        Binary::Pow => "** or pow()",
    }
}

fn zero_division() -> Fault {
    Fault::new("division by zero")
}

fn integers(op: Binary, a: i128, b: i128) -> Outcome<Value> {
    let large = || Fault::unsupported("integers of more than 128 bits");
    let exact =
        |n: i128| if n.abs() <= EXACT { Ok(n as f64) } else { Err(Fault::unsupported("quotients of large integers")) };
    Ok(match op {
        Binary::Add => Value::Int(a.checked_add(b).ok_or_else(large)?),
        Binary::Sub => Value::Int(a.checked_sub(b).ok_or_else(large)?),
        Binary::Mul => Value::Int(a.checked_mul(b).ok_or_else(large)?),
        Binary::Div | Binary::FloorDiv | Binary::Mod if b == 0 => return Err(zero_division()),
        Binary::Div => Value::Float(exact(a)? / exact(b)?),
        Binary::FloorDiv | Binary::Mod => {
            let (quotient, rest) = (a.checked_div(b).ok_or_else(large)?, a.checked_rem(b).ok_or_else(large)?);
            let below = rest != 0 && (rest < 0) != (b < 0);
            Value::Int(match op {
                Binary::FloorDiv => quotient - i128::from(below),
                _ => rest + if below { b } else { 0 },
            })
        }
        Binary::Pow if b < 0 && a == 0 => return Err(Fault::new("0.0 cannot be raised to a negative power")),
        Binary::Pow if b < 0 => Value::Float(exact(a)?.powf(exact(b)?)),
        Binary::Pow => match (a, u32::try_from(b)) {
            (0 | 1, _) => Value::Int(if b == 0 { 1 } else { a }),
            (_, Ok(b)) => Value::Int(a.checked_pow(b).ok_or_else(large)?),
            _ => return Err(large()),
        },
    })
}

fn floats(op: Binary, a: f64, b: f64) -> Outcome<Value> {
    let finite_pow = |x: f64| if x.is_infinite() { Err(Fault::new("Numerical result out of range")) } else { Ok(x) };
    Ok(Value::Float(match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div | Binary::FloorDiv | Binary::Mod if b == 0.0 => return Err(zero_division()),
        Binary::Div => a / b,
        Binary::FloorDiv | Binary::Mod => {
            let mut rest = a % b;
            let mut quotient = (a - rest) / b;
            if rest != 0.0 && (b < 0.0) != (rest < 0.0) {
                rest += b;
                quotient -= 1.0;
            } else if rest == 0.0 {
                rest = 0f64.copysign(b);
            }
            let floor = if quotient == 0.0 { 0f64.copysign(a / b) } else { quotient.floor() };
            match op {
                Binary::Mod => rest,
                _ if quotient - floor > 0.5 => floor + 1.0,
                _ => floor,
            }
        }
        Binary::Pow if a == 0.0 && b < 0.0 => return Err(Fault::new("0.0 cannot be raised to a negative power")),
        Binary::Pow if a < 0.0 && b.is_finite() && b.fract() != 0.0 => {
            return Err(Fault::unsupported("complex numbers"));
        }
        Binary::Pow if a.is_finite() && b.is_finite() => finite_pow(a.powf(b))?,
        Binary::Pow => a.powf(b),
    }))
}

/// `-value` and `+value`.
pub fn signed(value: &Value, negative: bool) -> Outcome<Value> {
    match value {
        Value::Undefined(message) => Err(Fault::new(&**message)),
        Value::Float(x) => Ok(Value::Float(if negative { -x } else { *x })),
        _ => match value.as_int() {
            Some(i) if negative => {
                i.checked_neg().map(Value::Int).ok_or_else(|| Fault::unsupported("integers of more than 128 bits"))
            }
            Some(i) => Ok(Value::Int(i)),
            None => {
                let sign = if negative { '-' } else { '+' };
                Err(Fault::new(format!("bad operand type for unary {sign}: '{}'", value.kind())))
            }
        },
    }
}

/// `sorted(items, key=…, reverse=…)`: stable, by Python's `<`.
///
/// # Errors
/// Keys that have no order.
pub fn sorted(mut items: Vec<(Value, Value)>, reverse: bool) -> Outcome<Vec<Value>> {
    // Merged from the bottom up, because a comparison may fail. Reversed before and after, equal items keep their order.
    if reverse {
        items.reverse();
    }
    let mut width = 1;
    while width < items.len() {
        let mut merged = Vec::with_capacity(items.len());
        for chunk in items.chunks(2 * width) {
            let (mut left, mut right) = chunk.split_at(width.min(chunk.len()));
            while let (Some(a), Some(b)) = (left.first(), right.first()) {
                if order(&b.0, &a.0, "<")? == Some(Ordering::Less) {
                    merged.push(b.clone());
                    right = &right[1..];
                } else {
                    merged.push(a.clone());
                    left = &left[1..];
                }
            }
            merged.extend_from_slice(left);
            merged.extend_from_slice(right);
        }
        items = merged;
        width *= 2;
    }
    if reverse {
        items.reverse();
    }
    Ok(items.into_iter().map(|(_, item)| item).collect())
}
