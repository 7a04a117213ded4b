//! Functions of lists and maps.

use hcl::eval::FuncArgs;
use hcl::{Map, Value};

use super::{Result, exactly, integer_of, list_of, map_of, string_of};

pub(super) fn coalesce(args: FuncArgs) -> Result {
    let found = args.into_values().into_iter().find(|value| !value.is_null());
    found.ok_or_else(|| "every argument is null".to_owned())
}

pub(super) fn coalesce_list(args: FuncArgs) -> Result {
    let lists: std::result::Result<Vec<_>, _> = args.into_values().into_iter().map(list_of).collect();
    let found = lists?.into_iter().find(|list| !list.is_empty());
    found.map(Value::Array).ok_or_else(|| "every list is empty".to_owned())
}

pub(super) fn compact(args: FuncArgs) -> Result {
    let [list] = exactly(args)?;
    Ok(list_of(list)?.into_iter().filter(|value| value.as_str() != Some("") && !value.is_null()).collect())
}

pub(super) fn concat(args: FuncArgs) -> Result {
    let lists: std::result::Result<Vec<_>, _> = args.into_values().into_iter().map(list_of).collect();
    Ok(lists?.into_iter().flatten().collect())
}

pub(super) fn contains(args: FuncArgs) -> Result {
    let [list, wanted] = exactly(args)?;
    Ok(Value::Bool(list_of(list)?.contains(&wanted)))
}

pub(super) fn distinct(args: FuncArgs) -> Result {
    let [list] = exactly(args)?;
    let mut seen = Vec::new();
    for value in list_of(list)? {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    Ok(Value::Array(seen))
}

/// An index beyond the list wraps around.
pub(super) fn element(args: FuncArgs) -> Result {
    let [list, index] = exactly(args)?;
    let (list, index) = (list_of(list)?, size_of(&index)?);
    let found = index.checked_rem(list.len()).and_then(|index| list.get(index).cloned());
    found.ok_or_else(|| "the list is empty".to_owned())
}

pub(super) fn flatten(args: FuncArgs) -> Result {
    fn into(flat: &mut Vec<Value>, list: Vec<Value>) {
        for value in list {
            match value {
                Value::Array(inner) => into(flat, inner),
                other => flat.push(other),
            }
        }
    }
    let [list] = exactly(args)?;
    let mut flat = Vec::new();
    into(&mut flat, list_of(list)?);
    Ok(Value::Array(flat))
}

pub(super) fn index(args: FuncArgs) -> Result {
    let [value, key] = exactly(args)?;
    let found = match value {
        Value::Object(mut map) => map.swap_remove(&string_of(&key)?),
        other => list_of(other)?.get(size_of(&key)?).cloned(),
    };
    found.ok_or_else(|| "there is no such element".to_owned())
}

pub(super) fn keys(args: FuncArgs) -> Result {
    let [map] = exactly(args)?;
    let mut keys: Vec<_> = map_of(map)?.into_iter().map(|(key, _)| key).collect();
    keys.sort();
    Ok(keys.into_iter().collect())
}

pub(super) fn length(args: FuncArgs) -> Result {
    let [value] = exactly(args)?;
    match value {
        Value::Array(list) => Ok(Value::from(list.len())),
        Value::Object(map) => Ok(Value::from(map.len())),
        _ => Err("a list or map is required; `strlen` counts characters".to_owned()),
    }
}

pub(super) fn lookup(args: FuncArgs) -> Result {
    let [map, key, default] = exactly(args)?;
    Ok(map_of(map)?.swap_remove(&string_of(&key)?).unwrap_or(default))
}

pub(super) fn merge(args: FuncArgs) -> Result {
    let mut merged = Map::new();
    for map in args.into_values().into_iter().filter(|value| !value.is_null()) {
        merged.extend(map_of(map)?);
    }
    Ok(Value::Object(merged))
}

/// `range(END)`, `range(START, END)` and `range(START, END, STEP)`.
pub(super) fn range(args: FuncArgs) -> Result {
    /// The length of go-cty's longest list.
    const LONGEST: usize = 1024;
    let numbers: std::result::Result<Vec<_>, _> = args.into_values().iter().map(integer_of).collect();
    let (start, end, step) = match numbers?.as_slice() {
        [end] => (0, *end, if *end < 0 { -1 } else { 1 }),
        [start, end] => (*start, *end, if end < start { -1 } else { 1 }),
        [start, end, step] => (*start, *end, *step),
        _ => return Err("one to three numbers are required".to_owned()),
    };
    if step == 0 || (start < end) != (step > 0) && start != end {
        return Err("the step does not lead from the start to the end".to_owned());
    }
    let steps = std::iter::successors(Some(start), |number| number.checked_add(step));
    let within = steps.take_while(|number| if step > 0 { *number < end } else { *number > end });
    let list: Vec<Value> = within.take(LONGEST + 1).map(Value::from).collect();
    if list.len() > LONGEST {
        return Err(format!("the list would have more than {LONGEST} numbers"));
    }
    Ok(Value::Array(list))
}

pub(super) fn reverse(args: FuncArgs) -> Result {
    let [value] = exactly(args)?;
    match value {
        Value::Array(list) => Ok(list.into_iter().rev().collect()),
        other => Ok(Value::String(string_of(&other)?.chars().rev().collect())),
    }
}

pub(super) fn slice(args: FuncArgs) -> Result {
    let [list, start, end] = exactly(args)?;
    let (list, range) = (list_of(list)?, size_of(&start)?..size_of(&end)?);
    let found = list.get(range).map(<[Value]>::to_vec);
    found.map(Value::Array).ok_or_else(|| format!("the list has {} elements", list.len()))
}

pub(super) fn sort(args: FuncArgs) -> Result {
    let [list] = exactly(args)?;
    let texts: std::result::Result<Vec<_>, _> = list_of(list)?.iter().map(string_of).collect();
    let mut texts = texts?;
    texts.sort();
    Ok(texts.into_iter().collect())
}

pub(super) fn values(args: FuncArgs) -> Result {
    let [map] = exactly(args)?;
    let mut entries: Vec<_> = map_of(map)?.into_iter().collect();
    entries.sort_by(|left, right| left.0.cmp(&right.0));
    Ok(entries.into_iter().map(|(_, value)| value).collect())
}

pub(super) fn zipmap(args: FuncArgs) -> Result {
    let [keys, values] = exactly(args)?;
    let (keys, values) = (list_of(keys)?, list_of(values)?);
    if keys.len() != values.len() {
        return Err(format!("{} keys and {} values are given", keys.len(), values.len()));
    }
    let keys: std::result::Result<Vec<_>, _> = keys.iter().map(string_of).collect();
    Ok(Value::Object(keys?.into_iter().zip(values).collect()))
}

/// An index in a list.
fn size_of(value: &Value) -> std::result::Result<usize, String> {
    usize::try_from(integer_of(value)?).map_err(|_| "a number of at least 0 is required".to_owned())
}
