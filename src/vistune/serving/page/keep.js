// What the browser keeps of a choice; one that keeps nothing is no reason not to work.

export function recall(name, otherwise = null) {
  try {
    return localStorage.getItem(`vistune.${name}`) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`vistune.${name}`, value);
  } catch {
    // it holds until the next reload
  }
}
