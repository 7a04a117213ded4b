//! Functions and operators for numbers.

use hcl::Value;
use hcl::eval::FuncArgs;

use super::{Result, exactly, number_of, number_value};

pub(super) fn abs(args: FuncArgs) -> Result {
    let [number] = exactly(args)?;
    Ok(number_value(number_of(&number)?.abs()))
}

pub(super) fn ceil(args: FuncArgs) -> Result {
    let [number] = exactly(args)?;
    Ok(number_value(number_of(&number)?.ceil()))
}

pub(super) fn divided_by(args: FuncArgs) -> Result {
    let [left, right] = numbers(args)?;
    if right == 0.0 { Err("division by zero".to_owned()) } else { finite(left / right) }
}

pub(super) fn floor(args: FuncArgs) -> Result {
    let [number] = exactly(args)?;
    Ok(number_value(number_of(&number)?.floor()))
}

pub(super) fn max(args: FuncArgs) -> Result {
    let numbers: std::result::Result<Vec<_>, _> = args.into_values().iter().map(number_of).collect();
    numbers?.into_iter().reduce(f64::max).map(number_value).ok_or_else(|| "a number is required".to_owned())
}

pub(super) fn min(args: FuncArgs) -> Result {
    let numbers: std::result::Result<Vec<_>, _> = args.into_values().iter().map(number_of).collect();
    numbers?.into_iter().reduce(f64::min).map(number_value).ok_or_else(|| "a number is required".to_owned())
}

pub(super) fn minus(args: FuncArgs) -> Result {
    arithmetic(args, i64::checked_sub, |left, right| left - right)
}

pub(super) fn modulo(args: FuncArgs) -> Result {
    // For two integers, only a division by zero and the least integer divided by -1 have no integer result.
    arithmetic(args, i64::checked_rem, |left, right| left % right)
}

pub(super) fn plus(args: FuncArgs) -> Result {
    arithmetic(args, i64::checked_add, |left, right| left + right)
}

pub(super) fn times(args: FuncArgs) -> Result {
    arithmetic(args, i64::checked_mul, |left, right| left * right)
}

fn numbers(args: FuncArgs) -> std::result::Result<[f64; 2], String> {
    let [left, right] = exactly(args)?;
    Ok([number_of(&left)?, number_of(&right)?])
}

/// Exact for whole numbers whose result fits.
fn arithmetic(
    args: FuncArgs,
    of_integers: fn(i64, i64) -> Option<i64>,
    of_others: fn(f64, f64) -> f64,
) -> Result {
    let values: [Value; 2] = exactly(args)?;
    let whole = values[0].as_i64().zip(values[1].as_i64());
    match whole.and_then(|(left, right)| of_integers(left, right)) {
        Some(result) => Ok(Value::from(result)),
        None => finite(of_others(number_of(&values[0])?, number_of(&values[1])?)),
    }
}

fn finite(number: f64) -> Result {
    if number.is_finite() {
        Ok(number_value(number))
    } else {
        Err("the result is too large, or there is none".to_owned())
    }
}
