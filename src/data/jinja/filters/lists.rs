//! Filters of lists and numbers.

use super::{
    super::{
        access,
        args::{Args, index, required},
        fault::{Fault, Outcome},
        interpreter::Interpreter,
        operators, text,
        value::Value,
    },
    count,
};

type I<'a, 'b> = &'a mut Interpreter<'b>;

pub fn abs(_: I, value: Value, args: Args) -> Outcome<Value> {
    args.bind_positional::<0>("abs")?;
    match value {
        Value::Float(x) => Ok(Value::Float(x.abs())),
        other => match other.as_int() {
            Some(i) => {
                i.checked_abs().map(Value::Int).ok_or_else(|| Fault::unsupported("integers of more than 128 bits"))
            }
            None => Err(Fault::new(format!("bad operand type for abs(): '{}'", other.kind()))),
        },
    }
}

pub fn batch(_: I, value: Value, args: Args) -> Outcome<Value> {
    let [size, fill] = args.bind("batch", ["linecount", "fill_with"])?;
    let size = count(size, "batch", "linecount")?;
    let items = access::items(&value)?;
    // A batch is given out when it has exactly that many items, which it never has of none.
    let width = usize::try_from(size).ok().filter(|n| *n > 0).unwrap_or(usize::MAX);
    if size <= 0 && !items.is_empty() {
        return Err(Fault::unsupported("batches of no items"));
    }
    let mut out: Vec<Vec<Value>> = items.chunks(width.min(items.len().max(1))).map(<[Value]>::to_vec).collect();
    if let (Some(last), Some(fill)) = (out.last_mut(), fill.filter(|f| !matches!(f, Value::None))) {
        text::bounded(width)?;
        last.resize(width, fill);
    }
    Ok(Value::generator(out.into_iter().map(|items| Ok(Value::list(items)))))
}

pub fn slice(_: I, value: Value, args: Args) -> Outcome<Value> {
    let [slices, fill] = args.bind("slice", ["slices", "fill_with"])?;
    let slices = count(slices, "slice", "slices")?;
    let items = access::items(&value)?;
    let slices = match usize::try_from(slices) {
        Ok(0) | Err(_) => return Err(Fault::unsupported("fewer than one slice")),
        Ok(n) => text::bounded(n)?,
    };
    let (size, larger) = (items.len() / slices, items.len() % slices);
    let mut rest = items.as_slice();
    let mut out = Vec::new();
    for i in 0..slices {
        let (part, after) = rest.split_at(size + usize::from(i < larger));
        let mut part = part.to_vec();
        if let Some(fill) = fill.as_ref().filter(|f| i >= larger && !matches!(f, Value::None)) {
            part.push(fill.clone());
        }
        out.push(Ok(Value::list(part)));
        rest = after;
    }
    Ok(Value::generator(out))
}

pub fn dictsort(_: I, value: Value, args: Args) -> Outcome<Value> {
    let [case, by, reverse] = args.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
    let by = by.map_or_else(|| Ok("key".into()), |by| by.text())?;
    if !["key", "value"].contains(&&*by) {
        return Err(Fault::new("You can only sort by either \"key\" or \"value\""));
    }
    let dict = match &value {
        Value::Dict(dict) => dict,
        Value::Undefined(message) => return Err(Fault::new(&**message)),
        other => return Err(Fault::new(format!("'{}' object has no attribute 'items'", other.kind()))),
    };
    let case = case.is_some_and(|c| c.is_true());
    let keyed = dict.0.iter().map(|(k, v)| {
        let key = if &*by == "key" { k } else { v };
        let key = if case { key.clone() } else { ignore_case(key) };
        (key, Value::tuple(vec![k.clone(), v.clone()]))
    });
    operators::sorted(keyed.collect(), reverse.is_some_and(|r| r.is_true())).map(Value::list)
}

/// A text in lower case; anything else as it is.
pub fn ignore_case(value: &Value) -> Value {
    match value {
        Value::Str(s) | Value::Markup(s) => Value::str(s.to_lowercase()),
        other => other.clone(),
    }
}

pub fn first(_: I, value: Value, args: Args) -> Outcome<Value> {
    args.bind_positional::<0>("first")?;
    let nothing = || Value::undefined("No first item, sequence was empty.");
    match &value {
        Value::Iterator(pending) => {
            let mut pending = pending.borrow_mut();
            match (pending.items.pop_front(), pending.fault.take()) {
                (Some(first), fault) => {
                    pending.fault = fault;
                    Ok(first)
                }
                (None, Some(fault)) => Err(fault),
                (None, None) => Ok(nothing()),
            }
        }
        Value::List(items) | Value::Tuple(items) => Ok(items.first().cloned().unwrap_or_else(nothing)),
        other => Ok(access::items(other)?.into_iter().next().unwrap_or_else(nothing)),
    }
}

pub fn last(_: I, value: Value, args: Args) -> Outcome<Value> {
    args.bind_positional::<0>("last")?;
    if let Value::Iterator(_) | Value::Loop(_) = &value {
        return Err(Fault::new("'generator' object is not reversible"));
    }
    let items = access::items(&value)?;
    Ok(items.into_iter().next_back().unwrap_or_else(|| Value::undefined("No last item, sequence was empty.")))
}

pub fn reverse(_: I, value: Value, args: Args) -> Outcome<Value> {
    args.bind_positional::<0>("reverse")?;
    match &value {
        Value::Str(s) => Ok(Value::str(s.chars().rev().collect::<String>())),
        Value::Markup(_) => Err(Fault::unsupported("the filter `reverse` of a text that is marked as safe")),
        Value::Iterator(_) => {
            let mut items = access::items(&value)?;
            items.reverse();
            Ok(Value::list(items))
        }
        other => {
            let items = access::items(other).map_err(|_| Fault::new("argument must be iterable"))?;
            Ok(Value::generator(items.into_iter().rev().map(Ok)))
        }
    }
}

pub fn items(_: I, value: Value, args: Args) -> Outcome<Value> {
    args.bind_positional::<0>("items")?;
    match &value {
        Value::Undefined(_) => Ok(Value::generator([])),
        Value::Dict(dict) => {
            let pairs = dict.0.iter().map(|(k, v)| Ok(Value::tuple(vec![k.clone(), v.clone()])));
            Ok(Value::generator(pairs))
        }
        // Jinja2 raises it when the generator is first used.
        _ => Ok(Value::generator([Err(Fault::new("Can only get item pairs from a mapping."))])),
    }
}

pub fn int(_: I, value: Value, args: Args) -> Outcome<Value> {
    let [default, base] = args.bind("int", ["default", "base"])?;
    let default = default.unwrap_or(Value::Int(0));
    let base = base.map_or(Ok(10), |b| index(&b))?;
    let base = u32::try_from(base).ok().filter(|b| *b == 0 || (2..=36).contains(b));
    match &value {
        Value::Str(s) | Value::Markup(s) => {
            let base = match base {
                Some(base) => base,
                // `int` raises a ValueError, and Jinja2 goes on with a float.
                None => return float_to_int(text::parse_float(s)?, default),
            };
            match text::parse_int(s, base)? {
                Some(i) => Ok(Value::Int(i)),
                None => float_to_int(text::parse_float(s)?, default),
            }
        }
        Value::Float(x) if x.is_infinite() => Err(Fault::new("cannot convert float infinity to integer")),
        Value::Float(x) => float_to_int(Some(*x), default),
        Value::Undefined(message) => Err(Fault::new(&**message)),
        other => Ok(other.as_int().map_or(default, Value::Int)),
    }
}

fn float_to_int(x: Option<f64>, default: Value) -> Outcome<Value> {
    match x {
        Some(x) if x.is_finite() && x.abs() < 1e38 => Ok(Value::Int(x.trunc() as i128)),
        Some(x) if x.is_finite() => Err(Fault::unsupported("integers of more than 128 bits")),
        _ => Ok(default),
    }
}

pub fn float(_: I, value: Value, args: Args) -> Outcome<Value> {
    let [default] = args.bind("float", ["default"])?;
    let default = default.unwrap_or(Value::Float(0.0));
    match &value {
        Value::Str(s) | Value::Markup(s) => Ok(text::parse_float(s)?.map_or(default, Value::Float)),
        Value::Undefined(message) => Err(Fault::new(&**message)),
        other => Ok(other.as_float().map_or(default, Value::Float)),
    }
}

pub fn round(_: I, value: Value, args: Args) -> Outcome<Value> {
    let [precision, method] = args.bind("round", ["precision", "method"])?;
    let precision = precision.map_or(Ok(0), |p| index(&p))?;
    let method = method.map_or_else(|| Ok("common".into()), |m| m.text())?;
    if !["common", "ceil", "floor"].contains(&&*method) {
        return Err(Fault::new("method must be common, ceil or floor"));
    }
    if !(0..=22).contains(&precision) {
        return Err(Fault::unsupported(format!("rounding to {precision} digits")));
    }
    let Some(x) = value.as_float() else {
        return Err(Fault::new(format!("type {} doesn't define __round__ method", value.kind())));
    };
    if &*method == "common" {
        return match value {
            Value::Float(x) if x.is_finite() => {
                let rounded = format!("{x:.*}", precision as usize).parse();
                rounded.map(Value::Float).map_err(|_| Fault::new("not a number"))
            }
            Value::Float(x) => Ok(Value::Float(x)),
            other => Ok(Value::Int(required(other.as_int().map(Value::Int), "round", "value")?.as_int().unwrap_or(0))),
        };
    }
    let power = 10f64.powi(precision as i32);
    let scaled = x * power;
    if !scaled.is_finite() {
        return Err(Fault::new("cannot convert float to integer"));
    }
    let whole = if &*method == "ceil" { scaled.ceil() } else { scaled.floor() };
    // An integer has no minus before its zero.
    Ok(Value::Float((if whole == 0.0 { 0.0 } else { whole }) / power))
}
