//! Jinja2's filters, with transformers' `tojson`.

mod lists;
mod select;
mod texts;

use super::{
    access,
    args::{Args, required},
    ast::FilterFn,
    dumps,
    fault::{Fault, Outcome},
    interpreter::Interpreter,
    value::{Dict, Value},
};

/// The filter of that name.
pub fn find(name: &str) -> Option<FilterFn> {
    Some(match name {
        "abs" => lists::abs,
        "attr" => attr,
        "batch" => lists::batch,
        "capitalize" => texts::capitalize,
        "center" => texts::center,
        "count" | "length" => |_, v, a| {
            a.bind_positional::<0>("length")?;
            Ok(Value::Int(access::length(&v)? as i128))
        },
        "d" | "default" => default,
        "dictsort" => lists::dictsort,
        "e" | "escape" => texts::escape,
        "forceescape" => texts::force_escape,
        "first" => lists::first,
        "float" => lists::float,
        "format" => texts::format,
        "groupby" => select::group_by,
        "indent" => texts::indent,
        "int" => lists::int,
        "items" => lists::items,
        "join" => select::join,
        "last" => lists::last,
        "list" => |_, v, a| {
            a.bind_positional::<0>("list")?;
            access::items(&v).map(Value::list)
        },
        "lower" => texts::lower,
        "map" => select::map,
        "max" => select::max,
        "min" => select::min,
        "reject" => |i, v, a| select::select(i, &v, a, false, false),
        "rejectattr" => |i, v, a| select::select(i, &v, a, true, false),
        "replace" => texts::replace,
        "reverse" => lists::reverse,
        "round" => lists::round,
        "safe" => |_, v, _| v.text().map(Value::Markup),
        "select" => |i, v, a| select::select(i, &v, a, false, true),
        "selectattr" => |i, v, a| select::select(i, &v, a, true, true),
        "slice" => lists::slice,
        "sort" => select::sort,
        "string" => |_, v, _| match v {
            Value::Markup(_) => Ok(v),
            other => other.text().map(Value::Str),
        },
        "sum" => select::sum,
        "title" => texts::title,
        "tojson" => dumps::filter,
        "trim" => texts::trim,
        "truncate" => texts::truncate,
        "unique" => select::unique,
        "upper" => texts::upper,
        "urlencode" => texts::url_encode,
        "wordcount" => texts::word_count,
        "wordwrap" => |_, _, _| Err(Fault::unsupported("the filter `wordwrap`")),
        "filesizeformat" => |_, _, _| Err(Fault::unsupported("the filter `filesizeformat`")),
        "pprint" => |_, _, _| Err(Fault::unsupported("the filter `pprint`")),
        "random" => |_, _, _| Err(Fault::unsupported("the filter `random`")),
        "striptags" => |_, _, _| Err(Fault::unsupported("the filter `striptags`")),
        "urlize" => |_, _, _| Err(Fault::unsupported("the filter `urlize`")),
        "xmlattr" => |_, _, _| Err(Fault::unsupported("the filter `xmlattr`")),
        _ => return None,
    })
}

/// Whether there is a filter of that name.
pub fn exists(name: &str) -> bool {
    find(name).is_some()
}

/// Calls a filter by its name.
pub fn call(interpreter: &mut Interpreter<'_>, name: &str, value: Value, args: Args) -> Outcome<Value> {
    let filter = find(name).ok_or_else(|| Fault::new(format!("No filter named '{name}'.")))?;
    filter(interpreter, value, args)
}

fn default(_: &mut Interpreter<'_>, value: Value, args: Args) -> Outcome<Value> {
    let [default, boolean] = args.bind("default", ["default_value", "boolean"])?;
    let boolean = boolean.is_some_and(|b| b.is_true());
    if matches!(value, Value::Undefined(_)) || (boolean && !value.is_true()) {
        return Ok(default.unwrap_or_else(|| Value::str("")));
    }
    Ok(value)
}

/// The attribute alone, never the item.
fn attr(_: &mut Interpreter<'_>, value: Value, args: Args) -> Outcome<Value> {
    let [name] = args.bind("attr", ["name"])?;
    let name = required(name, "attr", "name")?;
    let Some(name) = name.as_text() else { return Err(Fault::new("attribute name must be string")) };
    // A dict without its items has the attributes of a dict.
    let without_items =
        if matches!(value, Value::Dict(_)) { Value::Dict(Dict::default().into()) } else { value.clone() };
    match access::attribute(&without_items, name)? {
        found @ Value::Method(_) => match access::attribute(&value, name) {
            Ok(method @ Value::Method(_)) => Ok(method),
            _ => Ok(found),
        },
        other => Ok(other),
    }
}

/// A number of items that a filter is to make.
fn count(value: Option<Value>, what: &str, name: &str) -> Outcome<i128> {
    super::args::index(&required(value, what, name)?)
}
