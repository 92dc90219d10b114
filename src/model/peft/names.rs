//! Names of an adapter's tensors. PEFT's files have `base_model.model.PATH.lora_A.weight`; a state dict that was written
//! without PEFT has the adapter's name in it (`lora_A.default.weight`), lacks the prefix, or has that of a wrapper.

use crate::{Result, model::safetensors::MappedFile};
use std::collections::BTreeMap;

/// Parts that only say how the model was wrapped when its weights were written.
const WRAPPERS: [&str; 6] =
    ["base_model", "model", "module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// PEFT's prefix of what stands in a decoder's layers.
const PREFIX: &str = "base_model.model.model";

/// A tensor's name taken apart.
struct Parsed<'a> {
    /// What stands before `layers`.
    prefix: &'a str,
    /// Name of the adapter in it, if any.
    adapter: Option<&'a str>,
    /// As PEFT writes it.
    canonical: String,
}

fn parse(name: &str) -> Option<Parsed<'_>> {
    let at = if name.starts_with("layers.") { 0 } else { name.find(".layers.")? + 1 };
    let prefix = name[..at].trim_end_matches('.');
    if !prefix.is_empty() && !prefix.split('.').all(|part| WRAPPERS.contains(&part)) {
        return None;
    }
    let mut parts: Vec<&str> = name[at..].split('.').filter(|part| !WRAPPERS[2..].contains(part)).collect();
    let adapter = match parts[..] {
        [.., "lora_A" | "lora_B", adapter, "weight"] => {
            parts.remove(parts.len() - 2);
            Some(adapter)
        }
        _ => None,
    };
    Some(Parsed { prefix, adapter, canonical: format!("{PREFIX}.{}", parts.join(".")) })
}

/// The names of the file by those that PEFT gives them. A name that is none of an adapter's stands for itself.
///
/// # Errors
/// If tensors of two adapters, or of two prefixes, are in the file: which of them is meant is not said anywhere.
pub(super) fn by_peft(file: &MappedFile) -> Result<BTreeMap<String, String>> {
    let mut names = BTreeMap::new();
    let mut first: Option<(&str, &str, Option<&str>)> = None;
    for (name, _) in file.entries() {
        let Some(parsed) = parse(name) else {
            names.insert(name.to_owned(), name.to_owned());
            continue;
        };
        let (before, prefix, adapter) = *first.get_or_insert((name, parsed.prefix, parsed.adapter));
        if adapter != parsed.adapter {
            return Err(file.wrong(name, format!("is of another adapter than `{before}`: write one adapter alone")));
        }
        if prefix != parsed.prefix {
            return Err(file.wrong(name, format!("has another prefix than `{before}`: which is the adapter's?")));
        }
        if let Some(twin) = names.insert(parsed.canonical, name.to_owned()) {
            return Err(file.wrong(name, format!("names the same weights as `{twin}`")));
        }
    }
    Ok(names)
}
