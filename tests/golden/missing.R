# Golden values of pooling, imputation, optimism and adjusted p values.
# Usage: Rscript missing.R FOLDER missing.json, FOLDER as written by missing_cases.py
suppressPackageStartupMessages({
  library(survival)
  library(mice)
  library(mitools)
  library(mitml) # mice's D1 and D2 need it
  library(rms)
  library(jsonlite)
})
arguments <- commandArgs(TRUE)
exact <- coxph.control(eps = 1e-12, toler.chol = 1e-13, iter.max = 50)
lung <- read.csv(file.path(arguments[1], "lung.csv"))
gbsg2 <- read.csv(file.path(arguments[1], "gbsg2.csv"), na.strings = c("NA", ""), stringsAsFactors = FALSE)
gbsg2$menopause <- factor(gbsg2$menopause, c("Pre", "Post"))
gbsg2$grade <- factor(gbsg2$grade, c("I", "II", "III"))

hazard <- function(data) {
  fit <- survfit(Surv(time, event) ~ 1, data = data, ctype = 1)
  fit$cumhaz[match(data$time, fit$time)]
}

# What a pooled analysis takes (per imputation) and gives.
pooled <- function(fits, fits0, tested, dfcom) {
  q <- t(sapply(fits, coef))
  u <- unname(lapply(fits, function(fit) unname(vcov(fit))))
  with_df <- pool(as.mira(fits), dfcom = dfcom)$pooled
  large <- pool(as.mira(fits), dfcom = Inf)$pooled
  combined <- MIcombine(lapply(fits, coef), lapply(fits, vcov))
  wald <- function(df) unname(D1(as.mira(fits), as.mira(fits0), dfcom = df)$result[1, ])
  list(
    estimates = unname(q), covariances = u, dfcom = dfcom, tested = tested - 1,
    estimate = with_df$estimate, df = with_df$df, fmi = with_df$fmi,
    df_large = large$df, fmi_large = large$fmi, total = unname(combined$variance),
    df_mitools = unname(combined$df),
    summary = summary(pool(as.mira(fits), dfcom = dfcom), conf.int = TRUE)[, c("p.value", "2.5 %", "97.5 %")],
    d1 = wald(dfcom),
    d1_three = unname(testModels(
      as.mitml.result(as.mira(fits[1:3])), as.mitml.result(as.mira(fits0[1:3])), method = "D1"
    )$test[1, ]),
    # Without mice's own guess of the degrees of freedom.
    d1_large = unname(testModels(as.mitml.result(as.mira(fits)), as.mitml.result(as.mira(fits0)), method = "D1")$test[1, ])
  )
}

set.seed(7)
five <- complete(mice(cbind(lung, hazard = hazard(lung)), m = 6, maxit = 5, printFlag = FALSE), "all")
cox <- lapply(five, function(d) coxph(Surv(time, event) ~ age + sex + ph_ecog + wt_loss + meal_cal, d, control = exact))
cox0 <- lapply(five, function(d) coxph(Surv(time, event) ~ age + sex + ph_ecog, d, control = exact))
pooled_cox <- pooled(cox, cox0, c(4, 5), 160)

# Likelihood ratios of Cox models by hand: mice's D3 refuses them.
at <- function(d, formula, fixed) coxph(formula, d, init = fixed, control = coxph.control(iter.max = 0))$loglik[2]
mean1 <- colMeans(t(sapply(cox, coef)))
mean0 <- colMeans(t(sapply(cox0, coef)))
own <- sapply(seq_along(five), function(i) 2 * (cox[[i]]$loglik[2] - cox0[[i]]$loglik[2]))
at_pooled <- sapply(five, function(d) {
  2 * (at(d, Surv(time, event) ~ age + sex + ph_ecog + wt_loss + meal_cal, mean1) -
    at(d, Surv(time, event) ~ age + sex + ph_ecog, mean0))
})
pooled_cox$own <- own
pooled_cox$at_pooled <- unname(at_pooled)
pooled_cox$d2 <- unname(testModels(as.mitml.result(as.mira(cox)), as.mitml.result(as.mira(cox0)), method = "D2", use = "wald")$test[1, ])
pooled_cox$d2_statistics <- sapply(cox, function(fit) {
  b <- coef(fit)[4:5]
  as.numeric(b %*% solve(vcov(fit)[4:5, 4:5]) %*% b)
})

logistic <- function(d, formula) glm(formula, binomial, d, control = glm.control(epsilon = 1e-14, maxit = 50))
glm1 <- lapply(five, logistic, event ~ age + sex + wt_loss + meal_cal)
glm0 <- lapply(five, logistic, event ~ age + sex)
pooled_glm <- pooled(glm1, glm0, c(4, 5), 223)
ratio <- D3(as.mira(glm1), as.mira(glm0))
pooled_glm$own <- ratio$deviances$dev0.M - ratio$deviances$dev1.M
pooled_glm$at_pooled <- ratio$deviances$dev0.L - ratio$deviances$dev1.L
pooled_glm$d3 <- unname(ratio$result)
pooled_glm$d2 <- unname(testModels(as.mitml.result(as.mira(glm1)), as.mitml.result(as.mira(glm0)), method = "D2", use = "likelihood")$test[1, ])

# Multiple imputation with the outcome as cumulative hazard and event: coefficients and their errors.
imputed <- function(data, formula, m, seed, method = NULL) {
  data$hazard <- hazard(data)
  predictors <- make.predictorMatrix(data)
  predictors[, "time"] <- 0
  arguments <- list(data, m = m, maxit = 10, seed = seed, predictorMatrix = predictors, printFlag = FALSE)
  if (!is.null(method)) {
    methods <- make.method(data)
    methods[names(method)] <- method
    arguments$method <- methods
  }
  done <- do.call(mice, arguments)
  fits <- lapply(complete(done, "all"), function(d) coxph(formula, d, control = exact))
  p <- pool(as.mira(fits), dfcom = Inf)$pooled
  list(terms = as.character(p$term), estimate = p$estimate, within = p$ubar, between = p$b, m = m,
    means = lapply(done$imp[sapply(done$imp, nrow) > 0], function(v) mean(as.matrix(sapply(v, function(x) as.numeric(x))))))
}
out <- list(
  pooled = list(cox = pooled_cox, logistic = pooled_glm),
  imputed = list(
    lung = imputed(lung, Surv(time, event) ~ age + sex + ph_ecog + ph_karno + meal_cal + wt_loss, 200, 11),
    gbsg2 = imputed(gbsg2, Surv(time, event) ~ age + menopause + grade + nodes + size, 100, 12,
      c(menopause = "logreg", grade = "polyreg", nodes = "pmm"))
  ),
  hazard = list(lung = hazard(lung)[1:40])
)

# Optimism: rms, whose draws are R's sample() and nothing else; and the same with exact maxima.
known <- na.omit(lung)
dd <- datadist(known)
options(datadist = "dd")
B <- 40
fit <- cph(Surv(time, event) ~ age + sex + ph_ecog + ph_karno + meal_cal + wt_loss, known, x = TRUE, y = TRUE)
set.seed(3)
rms_says <- rms::validate(fit, B = B)
set.seed(3)
draws <- t(sapply(1:B, function(i) sample(nrow(known), replace = TRUE)))
x <- as.matrix(known[, 1:6])
dxy <- function(b, rows) {
  d <- data.frame(time = known$time[rows], event = known$event[rows], risk = as.numeric(x[rows, ] %*% b))
  2 * concordance(Surv(time, event) ~ risk, d, reverse = TRUE)$concordance - 1
}
refit <- function(rows) {
  coef(coxph(Surv(known$time[rows], known$event[rows]) ~ x[rows, ], control = exact))
}
by_hand <- t(apply(draws, 1, function(rows) {
  b <- refit(rows)
  c(training = dxy(b, rows), test = dxy(b, 1:nrow(known)))
}))
out$optimism <- list(
  rms = unname(rms_says["Dxy", 1:5]), draws = draws - 1,
  apparent = dxy(refit(1:nrow(known)), 1:nrow(known)),
  training = unname(by_hand[, 1]), test = unname(by_hand[, 2])
)

p <- c(0.01, 0.04, 0.03, 0.005, 0.04, 0.8, 1, 0)
out$adjusted <- list(p = p, holm = p.adjust(p, "holm"), bh = p.adjust(p, "BH"))
out$chi_square <- chisq.test(matrix(c(12, 40, 5, 60), 2), correct = FALSE)[c("statistic", "p.value")]
out$versions <- paste(
  R.version.string,
  paste(sapply(c("survival", "mice", "mitools", "mitml", "rms"), function(n) paste(n, packageVersion(n))), collapse = ", ")
)
write_json(out, arguments[2], digits = 15, auto_unbox = TRUE)
