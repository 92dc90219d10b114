//! Filters that look into the items of a list: by an attribute, a test or another filter.

use super::{
    super::{
        access,
        args::{Args, required},
        ast::Binary,
        fault::{Fault, Outcome},
        interpreter::Interpreter,
        operators, predicates, text,
        value::Value,
    },
    lists::ignore_case,
};
use std::cmp::Ordering;

type I<'a, 'b> = &'a mut Interpreter<'b>;

/// The path that `attribute="a.b.0"` names.
fn path(attribute: &Value) -> Vec<Value> {
    match attribute {
        Value::Str(s) | Value::Markup(s) => {
            let part = |part: &str| {
                let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
                part.parse().ok().filter(|_| digits).map_or_else(|| Value::str(part), Value::Int)
            };
            s.split('.').map(part).collect()
        }
        Value::None => Vec::new(),
        other => vec![other.clone()],
    }
}

/// What the path leads to; undefined parts give way to `default`.
fn follow(item: &Value, path: &[Value], default: Option<&Value>) -> Outcome<Value> {
    let mut item = item.clone();
    for part in path {
        item = access::item(&item, part)?;
        if let (Value::Undefined(_), Some(default)) = (&item, default) {
            item = default.clone();
        }
    }
    Ok(item)
}

/// An argument that is given and not None.
fn given(value: Option<Value>) -> Option<Value> {
    value.filter(|v| !matches!(v, Value::None))
}

pub fn map(interpreter: I, value: Value, mut args: Args) -> Outcome<Value> {
    if !value.is_true() {
        return Ok(Value::generator([]));
    }
    let items = access::items(&value)?;
    if args.positional.is_empty() && args.named.iter().any(|(name, _)| &**name == "attribute") {
        let [attribute, default] = args.bind("map", ["attribute", "default"])?;
        let path = path(&required(attribute, "map", "attribute")?);
        let default = given(default);
        return Ok(Value::generator(items.iter().map(|item| follow(item, &path, default.as_ref()))));
    }
    if args.positional.is_empty() {
        return Ok(Value::generator([Err(Fault::new("map requires a filter argument"))]));
    }
    let name = args.positional.remove(0).text()?;
    let mapped = items.into_iter().map(|item| super::call(interpreter, &name, item, args.clone()));
    Ok(Value::generator(mapped))
}

/// `select`, `reject` and, with `attribute`, `selectattr` and `rejectattr`.
pub fn select(_: I, value: &Value, mut args: Args, attribute: bool, wanted: bool) -> Outcome<Value> {
    if !value.is_true() {
        return Ok(Value::generator([]));
    }
    let items = access::items(value)?;
    if attribute && args.positional.is_empty() {
        return Ok(Value::generator([Err(Fault::new("Missing parameter for attribute name"))]));
    }
    let path = if attribute { path(&args.positional.remove(0)) } else { Vec::new() };
    let test = if args.positional.is_empty() { None } else { Some(args.positional.remove(0).text()?) };
    let chosen = items.into_iter().filter_map(|item| {
        let passes = follow(&item, &path, None).and_then(|value| match &test {
            None => Ok(value.is_true()),
            Some(name) => {
                let test = predicates::find(name).ok_or_else(|| Fault::new(format!("No test named '{name}'.")))?;
                test(&value, &args)
            }
        });
        match passes {
            Ok(passes) => (passes == wanted).then_some(Ok(item)),
            Err(fault) => Some(Err(fault)),
        }
    });
    Ok(Value::generator(chosen))
}

pub fn join(_: I, value: Value, args: Args) -> Outcome<Value> {
    let [between, attribute] = args.bind("join", ["d", "attribute"])?;
    let between = between.map_or_else(|| Ok("".into()), |d| d.text())?;
    let path = given(attribute).map(|a| path(&a)).unwrap_or_default();
    let mut out = String::new();
    for (i, item) in access::items(&value)?.iter().enumerate() {
        if i > 0 {
            out.push_str(&between);
        }
        out.push_str(&follow(item, &path, None)?.text()?);
        text::bounded(out.len())?;
    }
    Ok(Value::str(out))
}

/// The keys by which `items` are sorted, grouped or compared.
fn keyed(items: Vec<Value>, path: &[Value], case: bool, default: Option<&Value>) -> Outcome<Vec<(Value, Value)>> {
    let key = |item: Value| {
        let key = follow(&item, path, default)?;
        Ok((if case { key } else { ignore_case(&key) }, item))
    };
    items.into_iter().map(key).collect()
}

fn truth(value: Option<Value>) -> bool {
    value.is_some_and(|v| v.is_true())
}

pub fn sort(_: I, value: Value, args: Args) -> Outcome<Value> {
    let [reverse, case, attribute] = args.bind("sort", ["reverse", "case_sensitive", "attribute"])?;
    let case = truth(case);
    let paths: Vec<Vec<Value>> = match attribute.unwrap_or(Value::None) {
        Value::Str(s) => s.split(',').map(|part| path(&Value::str(part))).collect(),
        other => vec![path(&other)],
    };
    let key = |item: Value| {
        let parts = paths.iter().map(|path| {
            let key = follow(&item, path, None)?;
            Ok(if case { key } else { ignore_case(&key) })
        });
        Ok((Value::list(parts.collect::<Outcome<_>>()?), item))
    };
    let items = access::items(&value)?.into_iter().map(key).collect::<Outcome<_>>()?;
    operators::sorted(items, truth(reverse)).map(Value::list)
}

pub fn unique(_: I, value: Value, args: Args) -> Outcome<Value> {
    let [case, attribute] = args.bind("unique", ["case_sensitive", "attribute"])?;
    let path = path(&attribute.unwrap_or(Value::None));
    let mut seen: Vec<Value> = Vec::new();
    let mut out = Vec::new();
    for item in keyed(access::items(&value)?, &path, truth(case), None)? {
        if let Err(fault) = item.0.check_hashable() {
            out.push(Err(fault));
            break;
        }
        if !seen.iter().any(|key| key.equals(&item.0)) {
            seen.push(item.0);
            out.push(Ok(item.1));
        }
    }
    Ok(Value::generator(out))
}

pub fn min(_: I, value: Value, args: Args) -> Outcome<Value> {
    extreme(&value, &args, Ordering::Less, "<")
}

pub fn max(_: I, value: Value, args: Args) -> Outcome<Value> {
    extreme(&value, &args, Ordering::Greater, ">")
}

fn extreme(value: &Value, args: &Args, better: Ordering, sign: &str) -> Outcome<Value> {
    let [case, attribute] = args.bind("min and max", ["case_sensitive", "attribute"])?;
    let path = path(&attribute.unwrap_or(Value::None));
    let mut best: Option<(Value, Value)> = None;
    for item in keyed(access::items(value)?, &path, truth(case), None)? {
        let is_better = match &best {
            None => true,
            Some((key, _)) => operators::order(&item.0, key, sign)? == Some(better),
        };
        if is_better {
            best = Some(item);
        }
    }
    Ok(best.map_or_else(|| Value::undefined("No aggregated item, sequence was empty."), |(_, item)| item))
}

pub fn sum(_: I, value: Value, args: Args) -> Outcome<Value> {
    let [attribute, start] = args.bind("sum", ["attribute", "start"])?;
    let path = given(attribute).map(|a| path(&a)).unwrap_or_default();
    let mut total = start.unwrap_or(Value::Int(0));
    if total.as_text().is_some() {
        return Err(Fault::new("sum() can't sum strings [use ''.join(seq) instead]"));
    }
    for item in access::items(&value)? {
        total = operators::binary(Binary::Add, &total, &follow(&item, &path, None)?)?;
    }
    Ok(total)
}

pub fn group_by(_: I, value: Value, args: Args) -> Outcome<Value> {
    let [attribute, default, case] = args.bind("groupby", ["attribute", "default", "case_sensitive"])?;
    let path = path(&required(attribute, "groupby", "attribute")?);
    let (default, case) = (given(default), truth(case));
    let items = keyed(access::items(&value)?, &path, case, default.as_ref())?;
    let pairs = items.into_iter().map(|(key, item)| (key.clone(), Value::tuple(vec![key, item]))).collect();
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for pair in access::items(&operators::sorted(pairs, false).map(Value::list)?)? {
        let Value::Tuple(pair) = pair else { continue };
        let (key, item) = (pair[0].clone(), pair[1].clone());
        match groups.last_mut() {
            Some((last, items)) if last.equals(&key) => items.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let grouped = groups.into_iter().map(|(key, items)| {
        // The key as the first item of the group has it, not in lower case.
        let key = if case { key } else { follow(&items[0], &path, default.as_ref())? };
        Ok(Value::Group(vec![key, Value::list(items)].into()))
    });
    Ok(Value::list(grouped.collect::<Outcome<_>>()?))
}
