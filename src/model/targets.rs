//! Which linears of a model carry an adapter, by the rules of PEFT's `check_target_module_exists`.
//!
//! A name means every linear whose path ends in it, from a dot on: `q_proj`, `self_attn.q_proj`, `layers.3.mlp.up_proj`. A
//! pattern is a regular expression that has to match a whole path (`model.layers.3.self_attn.q_proj`).

use super::Module;
use std::collections::BTreeSet;

/// A linear of a decoder layer: the layer's number from 0, and the module.
pub type Place = (usize, Module);

/// The linears that carry an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets {
    modules: Vec<Module>,
    /// Where, if that is not in every layer.
    places: Option<BTreeSet<Place>>,
}

impl Targets {
    /// `modules` in every layer.
    pub fn everywhere(modules: impl IntoIterator<Item = Module>) -> Self {
        let modules: BTreeSet<Module> = modules.into_iter().collect();
        Self { modules: modules.into_iter().collect(), places: None }
    }

    /// `places` of a model of `layers` layers.
    pub fn at(places: impl IntoIterator<Item = Place>, layers: usize) -> Self {
        let places: BTreeSet<Place> = places.into_iter().collect();
        let everywhere = Self::everywhere(places.iter().map(|(_, module)| *module));
        let all = everywhere.modules.len() * layers == places.len();
        Self { places: (!all).then_some(places), ..everywhere }
    }

    /// Whether `module` of `layer` carries an adapter.
    pub fn contains(&self, layer: usize, module: Module) -> bool {
        self.places.as_ref().map_or_else(|| self.modules.contains(&module), |places| places.contains(&(layer, module)))
    }

    /// The modules that carry an adapter in some layer, ascending.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// The layers that carry adapters, ascending, if every module is adapted in the same ones and these are not all; `None`
    /// for adapters in every layer, and for those that differ between layers.
    pub fn layers(&self) -> Option<Vec<usize>> {
        let places = self.places.as_ref()?;
        let layers: BTreeSet<usize> = places.iter().map(|(layer, _)| *layer).collect();
        (layers.len() * self.modules.len() == places.len()).then(|| layers.into_iter().collect())
    }

    /// The modules as `target_modules` names them: by their names, or by their paths where layers differ in them.
    pub fn names(&self) -> Vec<String> {
        match &self.places {
            Some(places) if self.layers().is_none() => places.iter().map(|(layer, m)| m.path_in(*layer)).collect(),
            _ => self.modules.iter().map(|m| m.name().to_owned()).collect(),
        }
    }
}

impl std::fmt::Display for Targets {
    /// "q_proj v_proj", "q_proj in layers 0 2".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.names().join(" "))?;
        match self.layers() {
            Some(layers) => {
                write!(f, " in layers {}", layers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
            }
            None => Ok(()),
        }
    }
}

impl From<Vec<Module>> for Targets {
    fn from(modules: Vec<Module>) -> Self {
        Self::everywhere(modules)
    }
}

impl<const N: usize> From<[Module; N]> for Targets {
    fn from(modules: [Module; N]) -> Self {
        Self::everywhere(modules)
    }
}

/// How linears are named.
#[derive(Debug, Clone)]
pub enum Names {
    /// All of them.
    All,
    /// Those whose path is one of these, or ends in one behind a dot.
    Ends(Vec<String>),
    /// Those whose whole path matches.
    Pattern(Box<fancy_regex::Regex>),
}

impl Names {
    /// A regular expression, which has to match whole paths.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn pattern(text: &str) -> Result<Self, String> {
        let parsed = fancy_regex::Regex::new(text).and_then(|_| fancy_regex::Regex::new(&format!("^(?:{text})$")));
        parsed.map(|regex| Self::Pattern(Box::new(regex))).map_err(|e| e.to_string())
    }

    /// Whether the linear at `path` is meant. A pattern that needs too many steps to tell matches nothing.
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::All => true,
            Self::Ends(names) => names.iter().any(|name| ends(path, name)),
            Self::Pattern(regex) => regex.is_match(path).unwrap_or(false),
        }
    }
}

/// Whether `path` is `name`, or ends in it behind a dot.
fn ends(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.')) && !name.is_empty()
}

/// The layer that `name` is in, if it names one, and its module; `None` if no linear of any model can be called so.
pub fn parse(name: &str) -> Option<(Option<usize>, Module)> {
    let module = Module::from_name(name.rsplit('.').next()?)?;
    let layer = name.split('.').find_map(|part| part.parse().ok());
    ends(&module.path_in(layer.unwrap_or(0)), name).then_some((layer, module))
}

/// What is asked to carry an adapter: `target_modules`, `exclude_modules` and `layers_to_transform`.
#[derive(Debug, Clone)]
pub struct Selection {
    /// What is meant.
    pub targets: Names,
    /// What of it is not.
    pub exclude: Option<Names>,
    /// Numbers of the layers that alone are meant; `None` for all.
    pub layers: Option<Vec<usize>>,
}

impl Selection {
    /// The linears that are meant in a model of `layers` layers.
    pub fn in_model(&self, layers: usize) -> Targets {
        let meant = |&(layer, module): &Place| {
            let path = module.path_in(layer);
            self.layers.as_ref().is_none_or(|layers| layers.contains(&layer))
                && self.targets.matches(&path)
                && !self.exclude.as_ref().is_some_and(|names| names.matches(&path))
        };
        Targets::at((0..layers).flat_map(|layer| Module::ALL.map(|module| (layer, module))).filter(meant), layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &[&str]) -> Names {
        Names::Ends(of.iter().map(ToString::to_string).collect())
    }

    fn select(targets: Names, exclude: Option<Names>, layers: Option<Vec<usize>>) -> String {
        Selection { targets, exclude, layers }.in_model(12).to_string()
    }

    #[test]
    fn names_and_patterns_mean_what_they_mean_to_peft() {
        assert_eq!(select(names(&["v_proj", "q_proj"]), None, None), "q_proj v_proj");
        assert_eq!(select(names(&["self_attn.q_proj"]), None, Some(vec![11, 1])), "q_proj in layers 1 11");
        assert_eq!(select(names(&["proj", "_proj", "q"]), None, None), "", "a name is whole parts of a path");
        let one = "model.layers.1.mlp.up_proj";
        assert_eq!(select(names(&[one]), None, None), "up_proj in layers 1", "and not 11");
        assert_eq!(select(names(&["layers.1.mlp.up_proj"]), None, None), "up_proj in layers 1");
        assert_eq!(
            select(names(&["q_proj", one]), None, Some(vec![0, 1])),
            format!("model.layers.0.self_attn.q_proj model.layers.1.self_attn.q_proj {one}")
        );
        let all_but = select(Names::All, Some(names(&["mlp.up_proj", "o_proj", "gate_proj", "down_proj"])), None);
        assert_eq!(all_but, "q_proj k_proj v_proj");
        let pattern = |text: &str| Names::pattern(text).unwrap();
        assert_eq!(select(pattern(r".*\.[01]\.mlp\.(up|down)_proj"), None, None), "up_proj down_proj in layers 0 1");
        assert_eq!(select(pattern("q_proj"), None, None), "", "a pattern matches the whole path");
        assert_eq!(select(names(&["q_proj"]), Some(pattern(r".*layers\.(\d|10)\..*")), None), "q_proj in layers 11");
        assert!(Names::pattern("(").is_err() && Names::pattern("a)|(b").is_err());
    }

    #[test]
    fn targets_are_equal_where_they_mean_the_same() {
        let places = |layers: usize| (0..layers).flat_map(|l| [(l, Module::UpProj), (l, Module::QProj)]);
        assert_eq!(Targets::at(places(3), 3), Targets::from([Module::QProj, Module::UpProj]));
        let some = Targets::at(places(2), 3);
        assert_eq!((some.layers(), some.contains(2, Module::QProj)), (Some(vec![0, 1]), false));
        assert!(some.contains(1, Module::UpProj) && !some.contains(1, Module::VProj));
        assert!(Targets::at([], 3).is_empty());
    }

    #[test]
    fn names_that_no_linear_has() {
        assert_eq!(parse("layers.7.self_attn.q_proj"), Some((Some(7), Module::QProj)));
        assert_eq!(parse("mlp.up_proj"), Some((None, Module::UpProj)));
        for name in ["", "lm_head", "mlp.q_proj", "q_proj.", ".q_proj", "x.q_proj", "7.q_proj", "layers.x.mlp.up_proj"]
        {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
