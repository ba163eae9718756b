# Golden values of regressions from R. Usage: Rscript inference.R FOLDER_OF_CSVS OUT.json
suppressPackageStartupMessages({
  library(survival)
  library(cmprsk)
  library(rms)
  library(splines)
  library(jsonlite)
})
FIXED <- c("time", "event", "cause", "entry", "weight", "stratum", "cluster")
TIGHT <- coxph.control(eps = 1e-14, iter.max = 60, toler.chol = 1e-15)

covariates <- function(d) setdiff(names(d), FIXED)
matrix_of <- function(d, names) { m <- as.matrix(d[, names, drop = FALSE]); storage.mode(m) <- "double"; m }
response <- function(d) {
  if ("entry" %in% names(d)) Surv(d$entry, d$time, d$event) else Surv(d$time, d$event)
}

# One matrix a term, so that cox.zph tests a categorical covariate as one.
term_data <- function(d) {
  of <- sub(":.*", "", covariates(d))
  out <- data.frame(weight = d$weight, stratum = d$stratum, cluster = d$cluster)
  for (t in unique(of)) out[[t]] <- matrix_of(d, covariates(d)[of == t])
  out$y <- response(d)
  list(data = out, terms = unique(of))
}

fitted_values <- function(f) {
  list(coef = unname(coef(f)), var = unname(f$var), loglik = f$loglik, score = f$score,
       wald = unname(f$wald.test))
}

cox <- function(d) {
  t <- term_data(d)
  form <- as.formula(paste("y ~", paste(t$terms, collapse = " + ")))
  stratified <- update(form, . ~ . + strata(stratum))
  # do.call: coxph looks up weights and clusters in the calling frame.
  fit <- function(form, ...) do.call(coxph, list(form, t$data, control = TIGHT, x = TRUE, ...))
  plain <- fit(form)
  out <- list(plain = fitted_values(plain))
  if (sum(d$event) > 1) {
    out$robust <- unname(fit(form, robust = TRUE, cluster = seq_len(nrow(d)))$var)
    out$clustered <- unname(fit(form, cluster = d$cluster)$var)
    weighted <- fit(form, weights = d$weight, robust = TRUE, cluster = seq_len(nrow(d)))
    out$weighted <- list(coef = unname(coef(weighted)), naive = unname(weighted$naive.var),
                         robust = unname(weighted$var), loglik = weighted$loglik)
    by <- fit(stratified)
    out$stratified <- fitted_values(by)
    out$stratified_robust <- unname(fit(stratified, robust = TRUE, cluster = seq_len(nrow(d)))$var)
    tests <- function(f, transform = "km") {
      z <- cox.zph(f, transform = transform)
      list(chisq = unname(z$table[, 1]), df = unname(z$table[, 2]), p = unname(z$table[, 3]))
    }
    out$zph <- list(km = tests(plain), identity = tests(plain, "identity"),
                    log = tests(plain, "log"), weighted = tests(weighted), stratified = tests(by))
    z <- cox.zph(plain, terms = FALSE)
    px <- seq(min(z$x), max(z$x), length = 40)
    l <- ns(c(px, z$x), df = 4, intercept = TRUE)
    q <- qr(l[-(1:40), ])
    bk <- backsolve(q$qr[1:4, 1:4], diag(4))
    sums <- rowSums((l[1:40, ] %*% bk %*% t(bk)) * l[1:40, ])
    out$smooth <- list(
      residuals = unname(z$y[1:5, , drop = FALSE]), scale = z$x[1:5], var = unname(diag(z$var)),
      value = as.vector(l[1:40, ] %*% qr.coef(q, z$y[, 1])),
      se = as.vector(sqrt(z$var[1, 1] * sums)))
  }
  out
}

spline <- function(d) {
  x <- matrix_of(d, covariates(d))
  v <- x[, 1]
  y <- response(d)
  one <- function(nk) {
    basis <- rcspline.eval(v, nk = nk, inclx = TRUE)
    knots <- attr(basis, "knots")
    k <- ncol(basis)
    curved <- coxph(y ~ cbind(basis, x[, -1]), control = TIGHT)
    straight <- coxph(y ~ x, control = TIGHT)
    at <- seq(quantile(v, 0.025), quantile(v, 0.975), length = 11)
    rows <- sweep(rcspline.eval(at, knots = knots, inclx = TRUE), 2,
                  as.vector(rcspline.eval(median(v), knots = knots, inclx = TRUE)))
    b <- coef(curved)[1:k]
    V <- curved$var[1:k, 1:k]
    cubic <- 2:k
    list(knots = unname(knots), basis = unname(basis[1:5, , drop = FALSE]), at = unname(at),
         effect = as.vector(rows %*% b), se = sqrt(rowSums((rows %*% V) * rows)),
         wald = as.vector(b[cubic] %*% solve(V[cubic, cubic], b[cubic])),
         lr = 2 * (curved$loglik[2] - straight$loglik[2]))
  }
  list(three = one(3), four = one(4))
}

logistic <- function(d) {
  x <- matrix_of(d, covariates(d))
  tight <- glm.control(epsilon = 1e-14, maxit = 100)
  fit <- glm(d$event ~ x, family = binomial, control = tight)
  # glm's covariance is that of the step before the last: start there once more.
  fit <- glm(d$event ~ x, family = binomial, control = tight, start = coef(fit))
  null <- glm(d$event ~ 1, family = binomial, control = tight)
  weighted <- glm(d$event ~ x, family = binomial, weights = d$weight, control = tight)
  weighted <- glm(d$event ~ x, family = binomial, weights = d$weight, control = tight,
                  start = coef(weighted))
  list(coef = unname(coef(fit)), var = unname(vcov(fit)),
       loglik = c(as.numeric(logLik(null)), as.numeric(logLik(fit))),
       score = anova(null, fit, test = "Rao")$Rao[2],
       weighted_coef = unname(coef(weighted)), weighted_var = unname(vcov(weighted)))
}

fine_gray <- function(d) {
  x <- matrix_of(d, covariates(d))
  fit <- crr(d$time, d$cause, x, gtol = 1e-13, maxiter = 50)
  list(coef = unname(fit$coef), var = unname(fit$var), loglik = c(fit$loglik.null, fit$loglik))
}

added <- function(d) {
  x <- matrix_of(d, covariates(d))
  y <- response(d)
  full <- coxph(y ~ x, control = TIGHT)
  less <- coxph(y ~ x[, -1], control = TIGHT)
  lr <- function(f) 2 * diff(f$loglik)
  list(lr = lr(full) - lr(less), adequacy = lr(less) / lr(full))
}

finish <- function(d) {
  row <- seq_len(nrow(d)) - 1
  cbind(d[, intersect(names(d), c("time", "event", "cause"))],
        weight = 1 + row %% 3, stratum = row %% 2, cluster = row %% 20,
        d[, setdiff(names(d), FIXED)])
}
complete <- function(d) d[complete.cases(d), ]
stored <- list(
  mgus2 = {
    cause <- with(mgus2, ifelse(pstat == 1, 1, 2 * death))
    d <- with(mgus2, data.frame(time = ifelse(pstat == 1, ptime, futime), event = 1 * (cause == 1),
      cause = cause, age = age, male = 1 * (sex == "M"), hgb = hgb, mspike = mspike))
    complete(d[d$time > 0, ])
  },
  pbc = with(pbc, complete(data.frame(time = time, event = 1 * (status == 2),
    cause = c(0, 2, 1)[status + 1], bili = log(bili), age = age, albumin = albumin,
    `edema:half` = 1 * (edema == 0.5), `edema:one` = 1 * (edema == 1), check.names = FALSE))),
  rotterdam = with(rotterdam[seq(1, nrow(rotterdam), 3), ], data.frame(time = dtime, event = death,
    age = age, nodes = nodes, `size:20-50` = 1 * (size == "20-50"), `size:>50` = 1 * (size == ">50"),
    hormon = hormon, check.names = FALSE))
)

args <- commandArgs(TRUE)
cases <- lapply(setNames(nm = sub(".csv", "", list.files(args[1], "csv$"))), function(n)
  read.csv(file.path(args[1], paste0(n, ".csv")), check.names = FALSE))
out <- lapply(c(cases, lapply(stored, finish)), function(d) {
  d[] <- lapply(d, as.numeric) # cox.zph takes no integer weights
  values <- list(cox = cox(d))
  if (sum(d$event) > 1) {
    if (!("entry" %in% names(d))) values$spline <- spline(d)
    values$added <- added(d)
    if (any(d$event == 0)) values$logistic <- logistic(d)
  }
  if ("cause" %in% names(d)) values$fine_gray <- fine_gray(d)
  values
})
for (n in names(stored)) out[[n]]$data <- as.list(finish(stored[[n]]))
out$versions <- sapply(c("survival", "cmprsk", "rms"), function(p) as.character(packageVersion(p)))
out$versions <- as.list(c(R = paste(R.version$major, R.version$minor, sep = "."), out$versions))
write_json(out, args[2], digits = I(15), auto_unbox = TRUE, matrix = "rowmajor")
